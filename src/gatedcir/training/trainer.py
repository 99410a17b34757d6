"""The parts of a run, made from its options, and an epoch of training with them."""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader
from tqdm import tqdm

from gatedcir.assemble import recipes
from gatedcir.assemble.data import (
    data_title,
    features_folder,
    load_training,
    make_source,
    with_workers_that_fit,
)
from gatedcir.assemble.evaluator import LARGEST_BATCH, make_evaluator, place
from gatedcir.assemble.kept import checkpoint_of, towers_left_out, with_own_towers
from gatedcir.assemble.model import build
from gatedcir.data.ahead import ahead
from gatedcir.data.changes import Changes, known_changes
from gatedcir.data.fingerprint import KEY as FINGERPRINTS
from gatedcir.data.fingerprint import fingerprints
from gatedcir.data.triplets import Split
from gatedcir.evaluation.evaluator import Evaluator
from gatedcir.options.checks import check_batch
from gatedcir.options.config import Config
from gatedcir.progress import bar
from gatedcir.resources import GIB, count_parameters, peak_memory
from gatedcir.run_folder.checkpoint import Checkpoint
from gatedcir.run_folder.provenance import RECIPES, provenance, recipes_before
from gatedcir.training.health import StepLosses, check_progress, check_weights
from gatedcir.training.loss_watch import LossWatch
from gatedcir.training.resume import check_same_data, check_start, remarks, told_of
from gatedcir.training.saving import Saving
from gatedcir.training.sharding import gathered
from gatedcir.training.so_far import SoFar
from gatedcir.training.stages import Parts, step_and_loader
from gatedcir.training.step import TrainingStep
from gatedcir.training.step_rows import Row, StepRows, every, fusion_figures


@dataclass
class Trainer:
    """The parts of a run, and an epoch of training with them."""

    config: Config
    accelerator: Accelerator
    step: TrainingStep
    evaluator: Evaluator
    changes: dict[str, Changes]  # what truly changes in validation, where it is known
    loader: DataLoader
    provenance: dict[str, Any]
    resumed: Checkpoint | None
    towers: dict[str, Any] | None
    """Names the frozen towers, which checkpoints leave out."""
    folder: Path
    """Of the run. The triplets of a step without a finite loss are noted there."""
    watch: LossWatch | None = None
    """On the losses of the present epoch."""
    first_losses: StepLosses | None = None
    """Of the run's first step, which no update has changed."""

    def train_epoch(self, epoch: int, saving: Saving) -> tuple[Row, list[Row]]:
        """One pass over the triplets. Returns mean figures with costs, and rows of single steps.

        A resumed run takes up the epoch where its state was saved. `saving` is asked after every
        step whether it is time to save again, or to end.
        """
        config, model = self.config, self.step.model
        steps = len(self.loader)
        rows = StepRows(first=epoch * steps, every=every(steps, config.run.log_every))
        found = SoFar(rows, self.accelerator.device)
        process = self.accelerator.process_index
        if self.resumed is not None and self.config.run.resume is not None:
            with told_of(self.config.run.resume):
                found.resume(self.resumed, epoch, process)
        watch = LossWatch(epoch, found, self.loader, self.folder, process, saving.open)
        self.watch = watch
        self.step.choose_scales(epoch)
        self.step.prepare(epoch, found.encoded)
        _seed_epoch(config.optim.seed, epoch, self.accelerator.process_index)
        self.step.wrapped.train()
        self.loader.sampler.epoch = epoch  # type: ignore[attr-defined]
        self.loader.sampler.start = found.steps  # type: ignore[attr-defined]
        self.loader.dataset.epoch = epoch  # type: ignore[attr-defined]
        start = time.perf_counter() - found.seconds
        # On a CPU the thread would take time from the step.
        on_cpu = self.accelerator.device.type == "cpu"
        batches = self.loader if on_cpu else ahead(self.loader)
        place = {"desc": f"epoch {epoch}", "total": steps, "initial": found.steps, "unit": "step"}
        shown = bar(batches, **place, show=self.accelerator.is_main_process)
        for step, batch in enumerate(shown, start=found.steps):
            found.begin()
            rates = self.step.rates
            loss, losses, aux = self.step(batch)
            if self.step.was_skipped:
                watch.note(step, loss.item())
                found.skip()
            else:
                found.add({"loss": loss, **losses, **fusion_figures(aux)}, model.temp, rates)
            del aux  # the gates are large, and the next step needs the memory
            # Reading a loss waits for the device, so we do not read it at every step.
            if step % 10 == 0 or step + 1 == steps:
                watch.check()
                shown.set_postfix({name: f"{value.item():.3f}" for name, value in losses.items()})
            found.seconds = time.perf_counter() - start
            if step + 1 < steps:  # the end of the epoch saves by itself
                saving.after_step(epoch, found)
        watch.end()
        check_weights(model, epoch=epoch)
        if epoch == 0:
            self.first_losses = StepLosses(*found.each[0].tolist())
        compared = config.optim.batch_size * self.accelerator.num_processes
        check_progress(
            found.medians(),
            first=self.first_losses,
            compared=compared,
            chance=self.step.chance(compared),
            epoch=epoch,
        )
        row = {
            **{n: v.item() for n, v in self.accelerator.reduce(found.means(), "mean").items()},
            "temp": model.temp.item(),
            "learning_rate": self.step.schedule.get_last_lr()[0],
            "triplets_per_second": steps * compared / found.seconds,
            "peak_memory_gib": peak_memory(self.accelerator.device) / GIB,
        }
        if config.run.on_nan == "skip":
            row["skipped_steps"] = found.skipped
        told = epoch == 0 and self.accelerator.is_main_process
        if told and (remark := self.step.remark(row, compared)):
            tqdm.write(remark)
        return row, rows.read(self.accelerator)

    def take(self, epochs: int, *, within: bool = False) -> Checkpoint:
        """The state after so many epochs, without metrics. All processes must call it.

        `within` adds what only the middle of an epoch needs.

        Raises:
            UserError: losses or weights in the middle of an epoch are not finite.
        """
        if within and self.watch is not None:
            self.watch.check()
            check_weights(self.step.model, epoch=epochs)
        found = checkpoint_of(
            self.step.model,
            self.step.tokenizer,
            self.config,
            epoch=epochs,
            metrics={},
            provenance=self.provenance,
            towers=self.towers,
        )
        state = {**self.step.state(), "first_losses": list(self.first_losses or ())}
        if within:
            state["encoded"] = self.step.encoded()
        return replace(found, weights=gathered(found.weights), trainer=state)

    def resume(self) -> float:
        """Load the last state of a resumed run. Returns the best score so far."""
        found = self.resumed
        if found is None or found.trainer is None:
            return -math.inf
        assert self.config.run.resume is not None
        with told_of(self.config.run.resume):
            self.step.load_state(found.trainer)
            if first := found.trainer.get("first_losses"):  # earlier versions did not save them
                self.first_losses = StepLosses(*first)
            return float(found.trainer["best"])


def prepare(
    config: Config, accelerator: Accelerator, resumed: Checkpoint | None, folder: Path
) -> tuple[Trainer, list[Split]]:
    """All parts of a run, checked, and its validation splits. Nothing is written.

    Raises:
        UserError: as `fit`.
    """
    names = ["train", "val"] if config.run.validates else ["train"]
    train_splits, *others = load_training(config, *names, folder=features_folder(config))
    splits = [split for parts in others for split in parts]
    prepared = recipes.prepare(config, train_splits)
    found = fingerprints([*train_splits, *splits]) | prepared.fingerprints
    if resumed is not None:
        check_same_data(config, resumed, found)
    if accelerator.is_main_process:
        for split in train_splits:
            print(f"{split.name}: {split.protocol}")
        for line in (*remarks(config), *prepared.remarks):
            print(line)
    triplets = prepared.triplets
    check_batch(config, len(triplets), accelerator.num_processes)
    if resumed is not None:
        check_start(config)
    model, tokenizer = build(config)
    before = recipes_before(config.backbone.backbone, model.backbone.recipes)
    said = [*prepared.remarks, *before]
    if resumed is not None:  # whatever weights are named now
        said = resumed.provenance.get(RECIPES, said)
    if accelerator.is_main_process:
        print("\n".join(before), end="\n" * bool(before))
    weights = None if resumed is None else with_own_towers(resumed, model)
    place(model, accelerator.device, config)
    if weights is not None:
        assert config.run.resume is not None
        with told_of(config.run.resume):
            model.load_state_dict(weights)  # whole, before the step may spread them
    towers = towers_left_out(config, model)
    here = with_workers_that_fit(config, model, max(2 * config.optim.batch_size, LARGEST_BATCH))
    source = make_source(here, model, [*train_splits, *splits])
    shown = (name for triplet in triplets for name in (triplet.reference, *triplet.targets))
    images = list(dict.fromkeys([*(n for split in train_splits for n in split.gallery), *shown]))
    parts = Parts(
        here,
        accelerator,
        model,
        tokenizer,
        triplets,
        images,
        source,
        folder,
        resumes=resumed is not None,
        weights=prepared.weights,
    )
    step, loader = step_and_loader(parts)
    trainer = Trainer(
        config=config,
        accelerator=accelerator,
        step=step,
        evaluator=make_evaluator(here, model, tokenizer, source),
        changes=known_changes(config.data.folder, [split.name for split in splits]),
        loader=loader,
        provenance={
            **provenance(),
            "device": str(accelerator.device),
            "precision": step.runs_on.name,
            "processes": accelerator.num_processes,
            "shards": isinstance(model, FSDPModule),
            "seed": config.optim.seed,
            **count_parameters(model),
            "dataset": data_title(config.data),
            "data": {split.name: split.protocol for split in (*train_splits, *splits)},
            "triplets": len(triplets),
            "queries": {split.name: len(split.triplets) for split in splits},
            FINGERPRINTS: found,
            RECIPES: said,
        },
        resumed=resumed,
        towers=towers,
        folder=folder,
    )
    return trainer, splits


def _seed_epoch(seed: int, epoch: int, process: int) -> None:
    """Seed an epoch's dropout from these values alone, so that a resumed run draws the same."""
    torch.manual_seed((seed * 1_000_003 + epoch) * 1_009 + process)
