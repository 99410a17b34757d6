"""Training steps of this project and of the published trainer, measured side by side."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch
from accelerate import Accelerator
from bench import GIGA, limits, operations, seconds
from step_profile import profiled
from torch import Tensor

from gatedcir.assemble.evaluator import place
from gatedcir.assemble.model import build
from gatedcir.data.batches import Batch
from gatedcir.evaluation.report import table
from gatedcir.features.cache import stored_dtype
from gatedcir.models.backbone import Backbone
from gatedcir.models.passes import text_features
from gatedcir.models.qformer import saves_arithmetic
from gatedcir.models.text import Tokenizer
from gatedcir.options.checks import check_ranges
from gatedcir.options.config import Config
from gatedcir.resources import GIB, peak_memory
from gatedcir.training.random_data import random_images, random_texts
from gatedcir.training.step import TrainingStep, check_launch, make_accelerator, make_step

if TYPE_CHECKING:
    from bench_step import Options

CIRR_TRIPLETS = 28225  # of its training split
WORDS = (5, 18)  # of a text, one token each. CIRR's have 11 on average.


def report(options: "Options") -> None:
    """Measure the steps and print the table."""
    own = options.training
    check_ranges(own)
    published = replace(
        own,
        optim=replace(own.optim, mixed_precision="fp32"),
        run=replace(own.run, compile=False),
    )
    accelerator = make_accelerator()
    check_launch(own, accelerator.device)
    batch = own.optim.batch_size
    print(f"{own.backbone.backbone}, batch of {batch}, fusion {own.model.gated_fusion.strategy}")
    # One after the other, so that a process' peak memory tells them apart.
    found = {"cached, this project": measure(own, options.repeats, accelerator, published=False)}
    differs = saves_arithmetic(accelerator.device)
    with patch("gatedcir.models.qformer.saves_arithmetic", lambda device: False):
        if differs:
            title = "cached, all rows of the Q-Former"
            found[title] = measure(own, options.repeats, accelerator, published=False)
        title = "uncached, as published"
        with patch("gatedcir.models.passes.features_of_both", one_by_one):
            found[title] = measure(published, options.repeats, accelerator, published=True)
    slowest = max(one.seconds for one in found.values())
    head = ["step", "s", "triplets/s", "ratio", "GFLOP", "GFLOP/s", "of the limit", "peak GiB"]
    rows = [
        [
            f"{title}, {one.precision}",
            f"{one.seconds:.3f}",
            f"{batch / one.seconds:.2f}",
            f"{slowest / one.seconds:.1f}",
            f"{one.operations / GIGA:.1f}",
            f"{one.operations / one.seconds / GIGA:.1f}",
            f"{100 * one.operations / one.seconds / one.limit:.0f}%",
            f"{one.memory / GIB:.2f}",
        ]
        for title, one in found.items()
    ]
    print(table(head, rows))
    epoch = CIRR_TRIPLETS / batch * min(one.seconds for one in found.values())
    print(f"an epoch of CIRR's {CIRR_TRIPLETS:,} triplets: {epoch / 60:.1f} minutes at best")
    if options.profile:
        run = ready(own, options.repeats, accelerator, published=False)
        run()
        print(profiled(run, seconds=seconds(run, repeats=options.repeats), device=run.step.device))


def one_by_one(
    backbone: Backbone, one: Tensor, other: Tensor, text_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """In place of `features_of_both`: a pass for each, as published."""
    return text_features(backbone, one, text_mask), text_features(backbone, other, text_mask)


@dataclass(frozen=True)
class Measured:
    """A step's costs."""

    precision: str  # of its matrix products
    operations: int  # of its matrix products
    seconds: float
    limit: float  # operations a second that the machine's products reach in that precision
    memory: int  # bytes


def ready(config: Config, repeats: int, accelerator: Accelerator, *, published: bool) -> "Run":
    """A step on random data: of this project, or the published one."""
    model, tokenizer = build(config)
    place(model, accelerator.device, config)
    words = Tokenizer(tokenizer.wordpiece, fixed=published)
    step = make_step(config, accelerator, model, words, steps_per_epoch=2 * repeats + 4)
    if published:
        model.backbone.set_attention("eager")
        for group in step.optimizer.param_groups:
            group["fused"] = None
    batch = config.optim.batch_size
    texts = random_texts(tokenizer, batch, words=WORDS)
    dtype = None if published else stored_dtype(config.optim.cache_dtype, step.runs_on)
    return Run(step, Batch.all_different(random_images(model, 2 * batch, dtype=dtype), texts))


def measure(config: Config, repeats: int, accelerator: Accelerator, *, published: bool) -> Measured:
    """Train on random data with this project's step, or with the published one."""
    run = ready(config, repeats, accelerator, published=published)
    step, precision = run.step, run.step.runs_on.precision or torch.float32
    before = limits(accelerator.device, precision)
    count = operations(run)  # also makes the optimiser's state
    run()  # compiles, if it is to
    time = seconds(run, repeats=repeats)
    after = limits(accelerator.device, precision)
    print(f"{step.runs_on.name}, before: {before}; after: {after.product / GIGA:.0f} GFLOP/s")
    limit = max(before.product, after.product)
    return Measured(step.runs_on.name, count, time, limit, peak(step))


@dataclass(frozen=True)
class Run:
    """One training step, again and again."""

    step: TrainingStep
    batch: Batch

    def __call__(self) -> None:
        """Learn from the batch."""
        self.step.wrapped.train()
        self.step(self.batch)


def peak(step: TrainingStep) -> int:
    """Peak memory so far. A GPU then starts to count again."""
    found = peak_memory(step.device)
    if step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(step.device)
    return found
