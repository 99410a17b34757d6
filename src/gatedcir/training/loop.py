"""The one training loop, for every dataset."""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader

from gatedcir.assemble.data import (
    data_title,
    features_folder,
    load_data,
    make_loader,
    make_source,
    with_workers_that_fit,
)
from gatedcir.assemble.evaluator import LARGEST_BATCH, make_evaluator, place
from gatedcir.assemble.model import (
    build,
    check_opens_again,
    checkpoint_of,
    tower_left_out,
    with_own_tower,
)
from gatedcir.benchmarks.registry import benchmark
from gatedcir.data.ahead import ahead
from gatedcir.data.batches import TripletDataset
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
from gatedcir.run_folder.checkpoint import Checkpoint
from gatedcir.run_folder.folder import TRAIN, VALIDATION, Place, RunFolder, has, last_line
from gatedcir.run_folder.provenance import provenance
from gatedcir.training.health import StepLosses, check_loss, check_progress, check_weights
from gatedcir.training.resume import (
    check_same_data,
    claim_folder,
    going_on,
    load_resumed,
    nothing_to_do,
    remarks,
)
from gatedcir.training.saving import Saving
from gatedcir.training.sharding import gathered, whole_weights
from gatedcir.training.so_far import SoFar
from gatedcir.training.step import TrainingStep, check_launch, make_accelerator, make_step
from gatedcir.training.step_rows import Row, StepRows, every, fusion_figures
from gatedcir.training.stop import Stop, in_words
from gatedcir.training.validation import validate_epoch


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
    accelerator = make_accelerator(config.run.device)
    check_launch(config, accelerator.device)
    stop, main = Stop(), accelerator.is_main_process
    with stop.listening(), claim_folder(config) if main else nullcontext() as place:
        resumes = broadcast_object_list([place is not None and place.resumes])[0]
        try:
            _fit(config, accelerator, place, stop, resumes=resumes)
        except KeyboardInterrupt as end:
            line = last_line(place.path, stopped="stopped") if place is not None else "stopped."
            raise in_words(end, line) from None
        return None if place is None else place.path


def _fit(
    config: Config, accelerator: Accelerator, place: Place | None, stop: Stop, *, resumes: bool
) -> None:
    """Train the epochs that are left. Only the main process has the folder, and writes."""
    main, epochs = place is not None, config.optim.num_epochs
    resumed, kept = load_resumed(config, accelerator.num_processes) if resumes else (None, None)
    done = resumed.epoch if resumed is not None else 0
    overdue = kept is not None and _is_due(config, done - 1) and not has(kept, VALIDATION, done - 1)
    if resumed is not None and kept is not None:
        assert config.run.resume is not None
        if done >= epochs and not overdue:
            if main:
                RunFolder(config.run.resume, done=done, kept=kept).board.close()
                print(nothing_to_do(config.run.resume, epochs))
            return
        if main:
            print(going_on(config.run.resume, kept, resumed, epochs))
    trainer, splits = _prepare(config, accelerator, resumed)
    best = trainer.resume()

    @cache
    def folder() -> RunFolder:
        assert place is not None
        if resumed is not None:
            return RunFolder(place.path, done=done, kept=kept)
        return RunFolder.create(place.path, to_dict(config), trainer.provenance)

    saving = Saving(
        config.run,
        accelerator,
        stop,
        trainer.take,
        folder if main else None,
        goes_on=resumed is not None,
        best=best,
    )
    if main and resumed is not None:
        folder()  # its tables are mended at once
    with stop.later():
        if overdue:
            _end_epoch(trainer, saving, splits, done - 1)
        for epoch in range(done, epochs):
            row, steps = trainer.train_epoch(epoch, saving)
            if main:
                folder().add(TRAIN, epoch, row)
                folder().add_steps(epoch, steps)
            _end_epoch(trainer, saving, splits, epoch)
            accelerator.wait_for_everyone()


def _end_epoch(trainer: "_Trainer", saving: Saving, splits: list[Split], epoch: int) -> None:
    """Validate if it is due, and save as the options say. All processes must call it."""
    trainer.step.choose_scales(epoch)
    taken = trainer.take(epoch + 1) if trainer.config.run.save else None
    check = None
    if _is_due(trainer.config, epoch):
        check = partial(validate_epoch, trainer.evaluator, splits, trainer.changes, epoch)
    with whole_weights(trainer.step.model):
        saving.end_epoch(taken, check, epoch=epoch, headline=trainer.evaluator.benchmark.headline)


def _is_due(config: Config, epoch: int) -> bool:
    """Whether an epoch ends with a validation. Number -1, before the first, does not."""
    done, every = epoch + 1, config.run.validation_frequency
    return epoch >= 0 and every > 0 and (done % every == 0 or done == config.optim.num_epochs)


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
    tower: dict[str, Any] | None
    """Names the frozen tower, which checkpoints leave out."""
    first_losses: StepLosses | None = None
    """Of the run's first step, which no update has changed."""

    def train_epoch(self, epoch: int, saving: Saving) -> tuple[Row, list[Row]]:
        """One pass over the triplets. Returns mean figures with costs, and rows of single steps.

        A resumed run takes up the epoch where its state was saved. `saving` is asked after every
        step whether it is time to save again, or to end.
        """
        config, model = self.config, self.step.model
        self.step.choose_scales(epoch)
        _seed_epoch(config.optim.seed, epoch, self.accelerator.process_index)
        self.step.wrapped.train()
        steps = len(self.loader)
        rows = StepRows(first=epoch * steps, every=every(steps, config.run.log_every))
        found = SoFar(rows, self.accelerator.device)
        found.resume(self.resumed, epoch, self.accelerator.process_index)
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
            found.add({"loss": loss, **losses, **fusion_figures(aux)}, model.temp, rates)
            del aux  # the gates are large, and the next step needs the memory
            # Reading a loss waits for the device, so we do not read it at every step.
            if step % 10 == 0 or step + 1 == steps:
                check_loss(loss.item(), epoch=epoch, where=f"step {step}")
                shown.set_postfix({name: f"{value.item():.3f}" for name, value in losses.items()})
            found.seconds = time.perf_counter() - start
            if step + 1 < steps:  # the end of the epoch saves by itself
                saving.after_step(epoch, found)
        check_loss(found.sums["loss"].item(), epoch=epoch, where="the sum of its steps")
        check_weights(model, epoch=epoch)
        if epoch == 0:
            self.first_losses = StepLosses(*found.each[0].tolist())
        check_progress(
            found.medians(),
            first=self.first_losses,
            compared=config.optim.batch_size * self.accelerator.num_processes,
            epoch=epoch,
        )
        means = {name: value / steps for name, value in found.sums.items()}
        triplets = steps * config.optim.batch_size * self.accelerator.num_processes
        row = {
            **{n: v.item() for n, v in self.accelerator.reduce(means, "mean").items()},
            "temp": model.temp.item(),
            "learning_rate": self.step.schedule.get_last_lr()[0],
            "triplets_per_second": triplets / found.seconds,
            "peak_memory_gib": peak_memory(self.accelerator.device) / GIB,
        }
        return row, rows.read(self.accelerator)

    def take(self, epochs: int) -> Checkpoint:
        """The state after so many epochs, without metrics. All processes must call it."""
        found = checkpoint_of(
            self.step.model,
            self.step.tokenizer,
            self.config,
            epoch=epochs,
            metrics={},
            provenance=self.provenance,
            tower=self.tower,
        )
        state = {**self.step.state(), "first_losses": list(self.first_losses or ())}
        return replace(found, weights=gathered(found.weights), trainer=state)

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
    config: Config, accelerator: Accelerator, resumed: Checkpoint | None
) -> tuple[_Trainer, list[Split]]:
    """All parts of a run, checked, and its validation splits. Nothing is written."""
    names = ["train", "val"] if config.run.validates else ["train"]
    train_splits, *others = load_data(config.data, *names, folder=features_folder(config))
    splits = [split for parts in others for split in parts]
    found = fingerprints([*train_splits, *splits])
    if resumed is not None:
        check_same_data(config, resumed, found)
    if accelerator.is_main_process:
        for split in train_splits:
            print(f"{split.name}: {split.protocol}")
        for line in remarks(config):
            print(line)
    triplets = [triplet for split in train_splits for triplet in split.triplets]
    check_batch(config.optim.batch_size, len(triplets), accelerator.num_processes)
    model, tokenizer = build(config)
    weights = None
    if resumed is not None:
        weights = with_own_tower(resumed, model, config.backbone.backbone)
    place(model, accelerator.device, config)
    if weights is not None:
        model.load_state_dict(weights)  # whole, before the step may spread them
    here = with_workers_that_fit(config, model, max(2 * config.optim.batch_size, LARGEST_BATCH))
    source = make_source(here, model, [*train_splits, *splits])
    text = benchmark(config.data.dataset).training_text
    loader = make_loader(here, TripletDataset(triplets, source, seed=config.optim.seed, text=text))
    step = make_step(config, accelerator, model, tokenizer, steps_per_epoch=len(loader))
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
            FINGERPRINTS: found,
        },
        resumed=resumed,
        tower=tower_left_out(config, model),
    )
    return trainer, splits


def _seed_epoch(seed: int, epoch: int, process: int) -> None:
    """Seed an epoch's dropout from these values alone, so that a resumed run draws the same."""
    torch.manual_seed((seed * 1_000_003 + epoch) * 1_009 + process)
