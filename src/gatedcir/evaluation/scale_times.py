"""How long the vision tower takes for the scales that images need, and for all scales.

Shapes: B batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from gatedcir.data.sources import PixelSource
from gatedcir.data.triplets import Split
from gatedcir.evaluation.evaluator import Evaluator
from gatedcir.resources import timed

_IMAGES = 32  # of one batch. The tower takes as long for others.


@dataclass(frozen=True)
class ScaleTimes:
    """Seconds of the vision tower for some images."""

    images: int
    needed: float
    """For the scales that each of them needs."""
    all: float

    def __str__(self) -> str:
        return (
            f"time of the tower for {self.images} images: {self.needed:.2f} s for the scales that "
            f"they need, {self.all:.2f} s for all, {self.all - self.needed:.2f} s saved"
        )


@torch.inference_mode()
def time_scales(evaluator: Evaluator, splits: Sequence[Split]) -> ScaleTimes | None:
    """Measure both on the first images of a split. None if kept features stand in for pixels."""
    if not isinstance(evaluator.source, PixelSource):
        return None
    names = list(islice(splits[0].gallery, _IMAGES))
    seconds = {}
    with evaluator.measuring():
        for _, images in evaluator.batches(names, "time of the scales"):
            for _ in range(2):  # the first time also asks for memory
                for chosen in (True, False):
                    with evaluator.runs_on.autocast():
                        seconds[chosen] = timed(
                            lambda: evaluator.model.levels(images, chosen=chosen),  # noqa: B023
                            evaluator.device,
                        )[1]
    return ScaleTimes(len(names), needed=seconds[True], all=seconds[False])
