"""The one training loop, for every dataset."""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader
from tqdm import tqdm

from gatedcir import checkpoint
from gatedcir.assemble import features_folder, load_data, make_evaluator, make_source, place
from gatedcir.checkpoint import BEST, LAST, Checkpoint
from gatedcir.config import Config
from gatedcir.data.ahead import ahead
from gatedcir.data.features import TripletDataset
from gatedcir.data.order import TripletBatches
from gatedcir.data.triplets import Split
from gatedcir.errors import UserError
from gatedcir.models.build import build, checkpoint_of
from gatedcir.option_checks import changed_flags, check_negatives, check_ranges
from gatedcir.parsing import to_dict
from gatedcir.resources import GIB, count_parameters, peak_memory
from gatedcir.retrieval.report import HEADLINE, format_report
from gatedcir.run_folder import RUNS, TRAIN, VALIDATION, RunFolder
from gatedcir.sharding import gathered, whole_weights
from gatedcir.step import TrainingStep, check_launch, make_accelerator, make_step
from gatedcir.validate import Evaluator, validate


def fit(config: Config) -> Path | None:
    """Fine-tune as the config says; the run's folder, on the main process only.

    The folder is made when the first epoch is done: what stops it earlier leaves nothing behind.

    Raises:
        UserError: bad options, data or weights, before anything is written; a loss that is not
            finite, or a broken image that is read while training.
    """
    trainer, splits = _prepare(config)
    done, best = trainer.resume()
    folder = None
    main = trainer.accelerator.is_main_process
    if main and config.run.resume is not None:
        folder = RunFolder(config.run.resume, done=done)
    overdue = (
        folder is not None
        and done > 0
        and _is_due(config, done - 1)
        and not folder.has(VALIDATION, done - 1)
    )
    if any(gather_object([overdue])):  # all processes agree
        best = _end_epoch(trainer, folder, splits, done - 1, best)
    for epoch in range(done, config.optim.num_epochs):
        row = trainer.train_epoch(epoch)
        if main:
            folder = folder or RunFolder.create(config, trainer.provenance)
            folder.add(TRAIN, epoch, row)
        best = _end_epoch(trainer, folder, splits, epoch, best)
        trainer.accelerator.wait_for_everyone()
    return None if folder is None else folder.path


def _end_epoch(
    trainer: "_Trainer", folder: RunFolder | None, splits: list[Split], epoch: int, best: float
) -> float:
    """Validate where it is due, and save what the options ask for; the best score so far.

    All processes call it, as weights may be in shards; the one with the folder does the work.
    """
    run = trainer.config.run
    snapshot = trainer.snapshot(epoch + 1) if run.save_training or run.save_best else None
    state = trainer.step.state() if run.save_training else {}

    def save(metrics: dict[str, float]) -> None:
        """Keep what going on needs, if it is to be kept. Random states follow from the epoch."""
        if folder is not None and snapshot is not None and run.save_training:
            kept = replace(snapshot, metrics=metrics, trainer={**state, "best": best})
            checkpoint.save(folder.checkpoints / LAST, kept)

    with whole_weights(trainer.step.model):
        # Before the validation too: what ends that, such as a broken image, must not cost the
        # epoch, and a resumed run validates what has no row yet.
        save({})
        if folder is not None and _is_due(trainer.config, epoch):
            metrics = validate(trainer.evaluator, splits)
            tqdm.write(format_report(metrics, splits, title=f"epoch {epoch}"))
            score = metrics[HEADLINE[trainer.config.data.dataset]]
            if snapshot is not None and run.save_best and score > best:
                checkpoint.save(folder.checkpoints / BEST, replace(snapshot, metrics=metrics))
            best = max(best, score)
            save(metrics)
            folder.add(VALIDATION, epoch, metrics)
    return best


def _is_due(config: Config, epoch: int) -> bool:
    """Whether an epoch ends with a validation."""
    done = epoch + 1
    return done % config.run.validation_frequency == 0 or done == config.optim.num_epochs


@dataclass
class _Trainer:
    """The parts of a run and what they do together in an epoch."""

    config: Config
    accelerator: Accelerator
    step: TrainingStep
    evaluator: Evaluator
    loader: DataLoader
    provenance: dict[str, Any]
    resumed: Checkpoint | None

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the triplets; means of losses and of the fusion's figures, and costs."""
        config, model = self.config, self.step.model
        _seed_epoch(config.optim.seed, epoch, self.accelerator.process_index)
        self.step.wrapped.train()
        self.loader.sampler.epoch = epoch  # type: ignore[attr-defined]
        self.loader.dataset.epoch = epoch  # type: ignore[attr-defined]
        sums: dict[str, Tensor] = {}
        start = time.perf_counter()
        quiet = not self.accelerator.is_main_process
        # On a CPU the thread would take time from the step.
        on_cpu = self.accelerator.device.type == "cpu"
        batches = self.loader if on_cpu else ahead(self.loader)
        steps = len(self.loader)
        bar = tqdm(batches, f"epoch {epoch}", steps, unit="step", disable=quiet)
        for step, batch in enumerate(bar):
            loss, losses, aux = self.step(batch)
            for name, value in {"loss": loss, **losses, **_figures(aux)}.items():
                sums[name] = sums.get(name, 0) + value.detach().float()
            # Reading a loss waits for the device: not at every step.
            if step % 10 == 0 or step + 1 == steps:
                if not torch.isfinite(loss):
                    raise UserError(
                        f"the loss is {loss.item()} in epoch {epoch}, step {step}; lower "
                        "--learning-rate or pass --mixed-precision fp32."
                    )
                bar.set_postfix({name: f"{value.item():.3f}" for name, value in losses.items()})
        seconds = time.perf_counter() - start
        means = {name: value / steps for name, value in sums.items()}
        triplets = steps * config.optim.batch_size * self.accelerator.num_processes
        return {
            **{n: v.item() for n, v in self.accelerator.reduce(means, "mean").items()},
            "temp": model.temp.item(),
            "learning_rate": self.step.schedule.get_last_lr()[0],
            "triplets_per_second": triplets / seconds,
            "peak_memory_gib": peak_memory(self.accelerator.device) / GIB,
        }

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

    def resume(self) -> tuple[int, float]:
        """Epochs done and the best score so far, after taking over a resumed step's last state."""
        found = self.resumed
        if found is None or found.trainer is None:
            return 0, -math.inf
        self.step.load_state(found.trainer)
        return found.epoch, found.trainer["best"]


def _prepare(config: Config) -> tuple[_Trainer, list[Split]]:
    """All parts of a run, checked, and its validation splits; nothing is written."""
    check_ranges(config)
    accelerator = make_accelerator()
    check_launch(config, accelerator.device)
    resumed = _load_resumed(config, accelerator.num_processes)
    if resumed is None:
        RunFolder.check_new(config.run.output_dir or RUNS)
    train_splits, splits = load_data(config.data, "train", "val", folder=features_folder(config))
    if accelerator.is_main_process:
        for split in train_splits:
            print(f"{split.name}: {split.protocol}")
    triplets = [triplet for split in train_splits for triplet in split.triplets]
    _check_batch(config.optim.batch_size, len(triplets), accelerator.num_processes)
    model, tokenizer = build(config)
    place(model, accelerator.device, config)
    if resumed is not None:
        model.load_state_dict(resumed.weights)  # whole, before the step may spread them
    source = make_source(config, model, [*train_splits, *splits])
    loader = _make_loader(config, TripletDataset(triplets, source, seed=config.optim.seed))
    step = make_step(config, accelerator, model, tokenizer, steps_per_epoch=len(loader))
    trainer = _Trainer(
        config=config,
        accelerator=accelerator,
        step=step,
        evaluator=make_evaluator(config, model, tokenizer, source),
        loader=loader,
        provenance={
            **checkpoint.provenance(),
            "device": str(accelerator.device),
            "precision": str(step.precision or torch.float32).removeprefix("torch."),
            "processes": accelerator.num_processes,
            "shards": isinstance(model, FSDPModule),
            "seed": config.optim.seed,
            **count_parameters(model),
            "data": {split.name: split.protocol for split in (*train_splits, *splits)},
        },
        resumed=resumed,
    )
    return trainer, splits


def _figures(aux: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is logged of the fusion: how far the gates open, alpha, how far the image changes."""
    figures = {}
    if "gate" in aux:
        gate = aux["gate"].detach().float()
        figures = {"gate_mean": gate.mean(), "gate_std": gate.std()}
    names = {"alpha": "alpha", "change": "fusion_change"}
    return figures | {title: aux[name] for name, title in names.items() if name in aux}


def _check_batch(batch_size: int, triplets: int, processes: int) -> None:
    check_negatives(batch_size, processes)
    if triplets < batch_size * processes:
        raise UserError(
            f"the training split has {triplets} triplets, fewer than one batch of "
            f"{batch_size * processes}; lower --batch-size."
        )


def _make_loader(config: Config, dataset: TripletDataset) -> DataLoader:
    """Batches of this process; a last partial one is left out, as negatives must be gathered."""
    parallel = dist.is_initialized()
    order = TripletBatches(
        dataset.triplets,
        batch_size=config.optim.batch_size,
        related=config.optim.related,
        seed=config.optim.seed,
        process=dist.get_rank() if parallel else 0,
        processes=dist.get_world_size() if parallel else 1,
    )
    return DataLoader(
        dataset,
        batch_size=None,  # the dataset makes the batches
        sampler=order,
        num_workers=config.data.num_workers if dataset.reads_files else 0,
        pin_memory=torch.cuda.is_available() and not dataset.source.on_gpu,
    )


def _seed_epoch(seed: int, epoch: int, process: int) -> None:
    """Dropout of an epoch depends on these alone, so that a resumed run draws the same."""
    torch.manual_seed((seed * 1_000_003 + epoch) * 1_009 + process)


def _load_resumed(config: Config, processes: int) -> Checkpoint | None:
    """The last state of the run to go on with; UserError if it cannot go on like this."""
    if config.run.resume is None:
        return None
    path = config.run.resume / "checkpoints" / LAST
    found = checkpoint.load(path) if path.is_file() else None
    if found is None or found.trainer is None:
        raise UserError(
            f"{config.run.resume} holds no training state to go on from, which --save-training "
            "keeps; start a new run with it."
        )
    for flag in changed_flags(found.config, to_dict(config)):
        raise UserError(
            f"--{flag} is another than {config.run.resume} was trained with; leave it out, or "
            "start a new run."
        )
    before = found.provenance.get("processes", processes)
    if before != processes:
        raise UserError(
            f"{config.run.resume} was trained on {before} processes and not {processes}, which "
            "make other batches; launch as many, or start a new run."
        )
    return found
