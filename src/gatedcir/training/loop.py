"""The one training loop, for every dataset."""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader

from gatedcir.assemble import recipes
from gatedcir.assemble.data import (
    data_title,
    features_folder,
    load_data,
    make_source,
    with_workers_that_fit,
)
from gatedcir.assemble.evaluator import LARGEST_BATCH, make_evaluator, place
from gatedcir.assemble.model import build, check_opens_again, checkpoint_of
from gatedcir.data.ahead import ahead
from gatedcir.data.changes import Changes, known_changes
from gatedcir.data.fingerprint import KEY as FINGERPRINTS
from gatedcir.data.fingerprint import fingerprints
from gatedcir.data.triplets import Split
from gatedcir.evaluation.evaluator import Evaluator
from gatedcir.options.checks import check_batch, check_ranges
from gatedcir.options.config import Config
from gatedcir.options.parsing import to_dict
from gatedcir.progress import bar
from gatedcir.resources import GIB, count_parameters, peak_memory
from gatedcir.run_folder import checkpoint
from gatedcir.run_folder.checkpoint import BEST, LAST, Checkpoint
from gatedcir.run_folder.folder import TRAIN, VALIDATION, Place, RunFolder, has, last_line
from gatedcir.run_folder.provenance import RECIPES, provenance
from gatedcir.run_folder.trackers import check_trackers
from gatedcir.training.averaging import Measured, better_weights
from gatedcir.training.health import StepLosses, check_loss, check_progress, check_weights
from gatedcir.training.resume import (
    check_same_data,
    claim_folder,
    going_on,
    load_resumed,
    nothing_to_do,
    remarks,
)
from gatedcir.training.sharding import gathered, whole_weights
from gatedcir.training.stages import Parts, step_and_loader
from gatedcir.training.step import TrainingStep, check_launch, make_accelerator
from gatedcir.training.step_rows import Row, StepRows, every, fusion_figures
from gatedcir.training.validation import gate_pictures, validate_epoch


def fit(config: Config) -> Path | None:
    """Fine-tune as the config says. Returns the run's folder, on the main process only.

    The folder is claimed at once. If the run ends before its first epoch is done, it leaves nothing
    behind.

    Raises:
        UserError: bad options, data or weights, or a folder that is in use, before anything is
            written; a loss or weights that no run should go on with; a broken image.
    """
    check_ranges(config)
    check_opens_again(config)
    check_trackers(config.run.tracker)
    accelerator = make_accelerator(config.run.device)
    check_launch(config, accelerator.device)
    with claim_folder(config) if accelerator.is_main_process else nullcontext() as place:
        resumes = broadcast_object_list([place is not None and place.resumes])[0]
        try:
            _fit(config, accelerator, place, resumes=resumes)
        except KeyboardInterrupt:
            line = last_line(place.path, stopped="stopped") if place is not None else "stopped."
            raise KeyboardInterrupt(line) from None
        return None if place is None else place.path


def _fit(config: Config, accelerator: Accelerator, place: Place | None, *, resumes: bool) -> None:
    """Train the epochs that are left. Only the main process has the folder, and writes."""
    main, epochs = place is not None, config.optim.num_epochs
    resumed, kept = load_resumed(config, accelerator.num_processes) if resumes else (None, None)
    done = resumed.epoch if resumed is not None else 0
    overdue = kept is not None and _is_due(config, done - 1) and not has(kept, VALIDATION, done - 1)
    if resumed is not None and kept is not None:
        assert config.run.resume is not None
        if done >= epochs and not overdue:
            if main:
                RunFolder(config.run.resume, done=done, kept=kept).close()
                print(nothing_to_do(config.run.resume, epochs))
            return
        if main:
            print(going_on(config.run.resume, kept, done, epochs))
    folder_name = broadcast_object_list([place.path if place is not None else None])[0]
    trainer, splits = _prepare(config, accelerator, resumed, folder_name)
    best = trainer.resume()
    folder = None
    if place is not None and resumed is not None:
        names, options = config.run.tracker, to_dict(config)
        folder = RunFolder(place.path, done=done, kept=kept, trackers=names, config=options)
    if overdue:
        best = _end_epoch(trainer, folder, splits, done - 1, best)
    for epoch in range(done, epochs):
        row, steps = trainer.train_epoch(epoch)
        if place is not None:
            folder = folder or RunFolder.create(
                place.path, to_dict(config), trainer.provenance, trackers=config.run.tracker
            )
            folder.add(TRAIN, epoch, row)
            folder.add_steps(epoch, steps)
        best = _end_epoch(trainer, folder, splits, epoch, best)
        accelerator.wait_for_everyone()
    if folder is not None:
        folder.close()


def _end_epoch(
    trainer: "_Trainer", folder: RunFolder | None, splits: list[Split], epoch: int, best: float
) -> float:
    """Validate if it is due, and save as the options say. Returns the best score so far.

    All processes call it, because weights may be in shards. The one with the folder does the work.
    """
    run = trainer.config.run
    trainer.step.choose_scales(epoch)
    snapshot = trainer.snapshot(epoch + 1) if run.keeps_last or run.keeps_best else None
    state = trainer.step.state() if run.keeps_last else {}

    def save(metrics: dict[str, float]) -> None:
        """Save the state for resuming, if the options ask for it. The epoch gives random states."""
        if folder is not None and snapshot is not None and run.keeps_last:
            first = list(trainer.first_losses or ())
            more = {"best": best, "first_losses": first, "tables": folder.tables}
            kept = replace(snapshot, metrics=metrics, trainer={**state, **more})
            checkpoint.save(folder.checkpoints / LAST, kept)

    with whole_weights(trainer.step.model):
        # Save before the validation too. If it fails, for example on a broken image, the epoch is
        # not lost: a resumed run begins with the validation that is missing.
        save({})
        if folder is not None and _is_due(trainer.config, epoch):
            headline = trainer.evaluator.benchmark.headline

            def validate() -> Measured:
                return validate_epoch(trainer.evaluator, splits, trainer.changes, epoch)

            averaged = trainer.step.averaged
            with better_weights(averaged, validate, headline=headline) as (metrics, figures):
                score = metrics[headline]
                if snapshot is not None and run.keeps_best and score > best:
                    checkpoint.save(folder.checkpoints / BEST, replace(snapshot, metrics=metrics))
            best = max(best, score)
            folder.add(VALIDATION, epoch, metrics | figures)
            folder.add_pictures(epoch, gate_pictures(trainer.evaluator, splits))
            save(metrics)
    return best


def _is_due(config: Config, epoch: int) -> bool:
    """Whether an epoch ends with a validation."""
    done, every = epoch + 1, config.run.validation_frequency
    return every > 0 and (done % every == 0 or done == config.optim.num_epochs)


@dataclass
class _Trainer:
    """The parts of a run, and an epoch of training with them."""

    config: Config
    accelerator: Accelerator
    step: TrainingStep
    evaluator: Evaluator
    changes: dict[str, Changes]  # what truly changes in validation, where it is known
    loader: DataLoader
    provenance: dict[str, Any]
    resumed: Checkpoint | None
    first_losses: StepLosses | None = None
    """Of the run's first step, which no update has changed."""

    def train_epoch(self, epoch: int) -> tuple[Row, list[Row]]:
        """One pass over the triplets. Returns mean figures with costs, and rows of single steps."""
        config, model = self.config, self.step.model
        self.step.choose_scales(epoch)
        self.step.prepare(epoch)
        _seed_epoch(config.optim.seed, epoch, self.accelerator.process_index)
        self.step.wrapped.train()
        self.loader.sampler.epoch = epoch  # type: ignore[attr-defined]
        self.loader.dataset.epoch = epoch  # type: ignore[attr-defined]
        sums: dict[str, Tensor] = {}
        each: list[Tensor] = []  # (loss, contrastive term) of every step
        start = time.perf_counter()
        main = self.accelerator.is_main_process
        # On a CPU the thread would take time from the step.
        on_cpu = self.accelerator.device.type == "cpu"
        batches = self.loader if on_cpu else ahead(self.loader)
        steps = len(self.loader)
        rows = StepRows(first=epoch * steps, every=every(steps, config.run.log_every))
        shown = bar(batches, desc=f"epoch {epoch}", total=steps, unit="step", show=main)
        for step, batch in enumerate(shown):
            rates = self.step.rates
            loss, losses, aux = self.step(batch)
            figures = {"loss": loss, **losses, **fusion_figures(aux)}
            del aux  # the gates are large, and the next step needs the memory
            for name, value in figures.items():
                sums[name] = sums.get(name, 0) + value.detach().float()
            rows.add(step, {**figures, "temp": model.temp}, rates)
            each.append(torch.stack([loss, losses["loss_itc"]]).detach().float())
            # Reading a loss waits for the device, so we do not read it at every step.
            if step % 10 == 0 or step + 1 == steps:
                check_loss(loss.item(), epoch=epoch, where=f"step {step}")
                shown.set_postfix({name: f"{value.item():.3f}" for name, value in losses.items()})
        seconds = time.perf_counter() - start
        check_loss(sums["loss"].item(), epoch=epoch, where="the sum of its steps")
        check_weights(model, epoch=epoch)
        if epoch == 0:
            self.first_losses = StepLosses(*each[0].tolist())
        compared = config.optim.batch_size * self.accelerator.num_processes
        check_progress(
            StepLosses(*torch.stack(each).median(0).values.tolist()),
            first=self.first_losses,
            compared=compared,
            chance=self.step.chance(compared),
            epoch=epoch,
        )
        means = {name: value / steps for name, value in sums.items()}
        triplets = steps * config.optim.batch_size * self.accelerator.num_processes
        row = {
            **{n: v.item() for n, v in self.accelerator.reduce(means, "mean").items()},
            "temp": model.temp.item(),
            "learning_rate": self.step.schedule.get_last_lr()[0],
            "triplets_per_second": triplets / seconds,
            "peak_memory_gib": peak_memory(self.accelerator.device) / GIB,
        }
        return row, rows.read(self.accelerator)

    def snapshot(self, epochs: int) -> Checkpoint:
        """The model after so many epochs, without metrics or the trainer's state."""
        found = checkpoint_of(
            self.step.model,
            self.step.tokenizer,
            self.config,
            epoch=epochs,
            metrics={},
            provenance=self.provenance,
        )
        return replace(found, weights=gathered(found.weights))

    def resume(self) -> float:
        """Load the last state of a resumed run. Returns the best score so far."""
        found = self.resumed
        if found is None or found.trainer is None:
            return -math.inf
        self.step.load_state(found.trainer)
        if first := found.trainer.get("first_losses"):  # earlier versions did not save them
            self.first_losses = StepLosses(*first)
        return found.trainer["best"]


def _prepare(
    config: Config, accelerator: Accelerator, resumed: Checkpoint | None, folder: Path
) -> tuple[_Trainer, list[Split]]:
    """All parts of a run, checked, and its validation splits. Nothing is written."""
    names = ["train", "val"] if config.run.validates else ["train"]
    train_splits, *others = load_data(config.data, *names, folder=features_folder(config))
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
    check_batch(config.optim.batch_size, len(triplets), accelerator.num_processes)
    model, tokenizer = build(config)
    place(model, accelerator.device, config)
    if resumed is not None:
        model.load_state_dict(resumed.weights)  # whole, before the step may spread them
    here = with_workers_that_fit(config, model, max(2 * config.optim.batch_size, LARGEST_BATCH))
    source = make_source(here, model, [*train_splits, *splits])
    images = list(dict.fromkeys(name for split in train_splits for name in split.gallery))
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
    trainer = _Trainer(
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
            RECIPES: prepared.remarks,
        },
        resumed=resumed,
    )
    return trainer, splits


def _seed_epoch(seed: int, epoch: int, process: int) -> None:
    """Seed an epoch's dropout from these values alone, so that a resumed run draws the same."""
    torch.manual_seed((seed * 1_000_003 + epoch) * 1_009 + process)
