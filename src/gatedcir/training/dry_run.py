"""Measure the memory, time and parameters of a training with these options, without its data.

Shapes: B triplets, L visual tokens, Dv vision width.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gatedcir.assemble.data import may_cache
from gatedcir.assemble.evaluator import place
from gatedcir.assemble.model import build
from gatedcir.data.batches import Batch
from gatedcir.evaluation.evaluator import Evaluator
from gatedcir.features.cache import ENCODE_BATCH, stored_dtype
from gatedcir.options.checks import check_negatives, check_ranges
from gatedcir.options.config import Config
from gatedcir.resources import GIB, MIB, count_parameters, free_memory, peak_memory, timed
from gatedcir.training.random_data import random_images, random_texts
from gatedcir.training.sharding import whole_weights
from gatedcir.training.step import TrainingStep, check_launch, make_accelerator, make_step
from gatedcir.visual import Visual, move

_STEPS = 2  # the first one also makes the optimiser's state
_WORDS = 40  # more than the 32 tokens of a text, fewer than the words that are cut off


@dataclass(frozen=True)
class Measured:
    """Findings of a dry run. Times are in seconds, sizes in bytes."""

    device: str
    precision: str
    trained: int
    """Parameters that are trained."""
    frozen: int
    """Parameters that are frozen."""
    inputs: tuple[int, ...]
    """Shape of the references that a step got: pixels [B, 3, H, W] or features [B, L, Dv]."""
    text_tokens: int
    vision: float | None
    """The frozen tower's pass over one image, done once before training. None if every step does
    it itself."""
    cached: int
    """Size of one image's features."""
    room: int
    """Number of images whose features need half of the free memory."""
    steps: tuple[float, ...]
    evaluation: float
    """One batch of galleries' images and one of queries."""
    evaluated: int
    """Number of images, and of queries, in that batch."""
    peak: int
    """Peak memory: that of the GPU, or that of the process without a GPU."""


def dry_run(config: Config) -> str | None:
    """Measure and report. Returns None on processes other than the main one.

    Raises:
        UserError: bad options or weights.
    """
    check_ranges(config)
    accelerator = make_accelerator(config.run.device)
    check_launch(config, accelerator.device)
    check_negatives(config.optim.batch_size, accelerator.num_processes)
    model, tokenizer = build(config)
    place(model, accelerator.device, config)
    step = make_step(config, accelerator, model, tokenizer, steps_per_epoch=_STEPS)
    found = measure(step)
    return report(found, config) if accelerator.is_main_process else None


def measure(step: TrainingStep) -> Measured:
    """Two training steps and one evaluation batch of random data, as the step's config has them."""
    config, model, device = step.config, step.model, step.device
    parameters = count_parameters(model)
    trained = parameters["trainable_parameters"]
    generator = torch.Generator().manual_seed(config.optim.seed)
    batch, vision, cached = config.optim.batch_size, None, 0
    make = partial(random_images, model, generator=generator)
    room = free_memory() // 2  # before the steps, which keep the memory that they free
    if may_cache(config):
        images = make(min(batch, ENCODE_BATCH))
        levels, seconds = timed(lambda: _tower(step, images), device)
        kept = stored_dtype(config.optim.cache_dtype, step.runs_on)
        levels = [level.to(kept) for level in levels]
        vision, cached = seconds / len(levels[0]), sum(level[0].nbytes for level in levels)
        make = partial(random_images, model, dtype=kept, generator=generator)
    texts = random_texts(step.tokenizer, max(batch, Evaluator.batch_size), words=(_WORDS, _WORDS))
    shown = make(2 * batch)
    triplets = Batch.all_different(shown, texts[:batch])
    step.wrapped.train()
    times = []
    for _ in range(_STEPS):
        times.append(timed(lambda: step(triplets), device)[1])
    model.eval()
    some = make(Evaluator.batch_size)
    with whole_weights(model):
        few = texts[: Evaluator.batch_size]
        evaluation = timed(lambda: _evaluate(step, some, few), device)[1]
    return Measured(
        device=str(device),
        precision=step.runs_on.name,
        trained=trained,
        frozen=parameters["parameters"] - trained,
        inputs=tuple(shown.shape if isinstance(shown, Tensor) else shown[0].shape),
        text_tokens=step.tokenizer(texts[:batch]).input_ids.shape[1],
        vision=vision,
        cached=cached,
        room=room // cached if cached else 0,
        steps=tuple(times),
        evaluation=evaluation,
        evaluated=Evaluator.batch_size,
        peak=peak_memory(device),
    )


def report(found: Measured, config: Config) -> str:
    """The figures as a block of text."""
    shape = list(found.inputs)
    lines = {
        "parameters": f"{found.trained / 1e6:.1f} M trained, {found.frozen / 1e6:.1f} M frozen",
        "images": f"pixels {shape}, through the vision tower in every step",
        "texts": f"{found.text_tokens} tokens",
    }
    if found.vision is not None:
        lines["images"] = f"features {shape}, cached"
        lines["vision pass"] = f"{found.vision:.3f} s an image, once, ahead of training"
        lines["cache"] = f"{found.cached / MIB:.2f} MiB an image"
        if config.run.cache_features == "auto":
            lines["cache"] += (
                f"; auto reads pixels instead for more than {found.room} images here, which "
                "--cache-features none measures, unless --cache-features names a folder"
            )
    first, *later = found.steps
    lines["training step"] = f"{min(later):.2f} s, the first {first:.2f} s"
    lines["evaluation"] = (
        f"{found.evaluation:.2f} s for {found.evaluated} images and {found.evaluated} queries"
    )
    kind = "of the GPU" if found.device.startswith("cuda") else "of the process"
    lines["peak memory"] = f"{found.peak / GIB:.2f} GiB {kind}"
    title = f"dry run of {config.backbone.backbone} on {found.device}, {found.precision}"
    return "\n".join([title, *(f"  {name:<14}{text}" for name, text in lines.items())])


@torch.inference_mode()
def _tower(step: TrainingStep, images: Visual) -> list[Tensor]:
    with step.runs_on.autocast():
        return step.model.levels(move(images, step.device))


@torch.inference_mode()
def _evaluate(step: TrainingStep, images: Visual, texts: list[str]) -> None:
    images = move(images, step.device)
    with step.runs_on.autocast():
        step.model.encode_target(images)
        step.model.encode_query(images, step.tokenizer(texts).to(step.device))
