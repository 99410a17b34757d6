"""Checks of an epoch: what stops a training which has failed, and what its user should know."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gatedcir.errors import UserError

MOST_FULL = 1 / 3  # of the places. More of them leave a gate little to tell apart.
_NEAR = 0.98  # share of chance's loss. Equal images of a batch are left out, which lowers it.
_GUESS = 0.95  # share of chance's loss. Matchers that began had 0.86 of it or less after one epoch.
WAY_OUT = "lower --learning-rate or pass --mixed-precision fp32"


def finite_everywhere(loss: Tensor) -> bool:
    """Whether the losses of all processes are finite."""
    finite = torch.isfinite(loss.detach()).int()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(finite, dist.ReduceOp.MIN)
    return bool(finite)


class StepLosses(NamedTuple):
    """A step's loss and its contrastive term, or the medians of an epoch."""

    total: float
    contrastive: float


def check_progress(
    now: StepLosses, *, first: StepLosses | None, compared: int, chance: float, epoch: int
) -> None:
    """Stop if the model has lost what it knew at the start.

    The contrastive term must be that of a model that guesses. It must also be above that of the
    run's first step, or the loss must be more than twice as high as there. Both leave a margin of
    four times the chance error of one batch. The loss of one query varies by about 1, so the mean
    of n queries varies by 1 / sqrt(n).

    Args:
        now: medians of an epoch.
        first: of the run's first step, before any update. None if not known.
        compared: n, the triplets of a step.
        chance: the contrastive term of a model that guesses.
        epoch: its number.

    Raises:
        UserError: the model has lost it.
    """
    margin = 4 / math.sqrt(compared)
    if first is None or now.contrastive < _NEAR * chance:
        return
    if now.contrastive > first.contrastive + margin or now.total > 2 * first.total + margin:
        raise UserError(
            f"epoch {epoch} has a median loss of {now.total:.2f} (contrastive term "
            f"{now.contrastive:.2f}), against {first.total:.2f} ({first.contrastive:.2f}) in the "
            f"first step and a term of {chance:.2f} by guessing: the model forgets what it knew; "
            "lower --learning-rate."
        )


def check_weights(model: nn.Module, *, epoch: int) -> None:
    """UserError if a trainable weight is not finite, before it replaces a good one."""
    for name, weight in model.named_parameters():
        own = weight.to_local() if isinstance(weight, DTensor) else weight
        if weight.requires_grad and not torch.isfinite(own).all():
            raise UserError(
                f"the weights ({name}) are not finite in epoch {epoch} and are not kept; {WAY_OUT}."
            )


def remark_on_lesson(figures: Mapping[str, float]) -> str | None:
    """What to change if the gate's lesson asks for a full change at many places.

    >>> remark_on_lesson({"lesson_full": 0.2}), remark_on_lesson({})
    (None, None)
    """
    full = figures.get("lesson_full", 0.0)
    if full <= MOST_FULL:
        return None
    return (
        f"the gate's lesson asks for a full change at {100 * full:.0f}% of the places, which "
        "leaves little to tell apart; compare earlier layers (--gate-target-layers 0 1 2), or "
        "raise --gate-target-cut."
    )


def remark_on_matcher(loss: float, *, chance: float, easy: int) -> str | None:
    """What to change if a matcher's loss of an epoch is that of a guess.

    Args:
        loss: its mean.
        chance: that of a guess.
        easy: how many wrong images of a triplet are drawn from all.

    >>> remark_on_matcher(1.5, chance=2.08, easy=0) is None
    True
    """
    if loss < _GUESS * chance:
        return None
    way = (
        "train longer, or with a higher --learning-rate"
        if easy
        else "its wrong images may be too much alike for it to start learning; "
        "try --rerank-negatives 3 --rerank-easy 4"
    )
    return f"the matcher's loss is {loss:.2f}, where a guess has {chance:.2f}: {way}."
