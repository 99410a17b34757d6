"""The logged figures of single steps: one row for every so many steps of an epoch."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

Row = dict[str, float]


def fusion_figures(aux: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The fusions' logged figures: how far gates open, alpha, the image's change, residual gain.

    Of a taught gate also the lesson's mean, and the share of places where it is 1.
    """
    figures = {}
    if "gate" in aux:
        gate = aux["gate"].detach().float()
        figures = {"gate_mean": gate.mean(), "gate_std": gate.std()}
    if "gate_target" in aux:
        lesson = aux["gate_target"].float()
        figures |= {"lesson_mean": lesson.mean(), "lesson_full": (lesson == 1).float().mean()}
    names = {"alpha": "alpha", "change": "fusion_change", "fusion_gain": "visual_fusion_gain"}
    names["scales_used"] = "scales_used"
    return figures | {title: aux[name] for name, title in names.items() if name in aux}


def every(steps: int, asked: int) -> int:
    """Steps from one row to the next: as many as asked for, or 1% of an epoch for 0.

    >>> every(28_000, 0), every(28_000, 7), every(20, 0)
    (280, 7, 1)
    """
    return asked or max(1, steps // 100)


class StepRows:
    """Keeps figures of every n-th step on the device, and gives them as rows after the epoch.

    Reading a figure waits for the device. So nothing is read before the epoch ends.
    """

    def __init__(self, *, first: int, every: int) -> None:
        """Begin an epoch.

        Args:
            first: the steps of all epochs before.
            every: steps from one row to the next. The epoch's first step has a row.
        """
        self.first, self.every = first, every
        self.names: list[str] = []
        self.kept: list[tuple[int, Row, Tensor]] = []  # step, learning rates, figures

    def add(self, step: int, figures: Mapping[str, Tensor], rates: Row) -> None:
        """Keep a step's scalars and learning rates, if it is due.

        Args:
            step: its number in the epoch.
            figures: the same names in every step.
            rates: the learning rates that the step used.
        """
        if step % self.every == 0:
            self.names = list(figures)
            # stack copies: some figures are weights, which later steps change.
            values = torch.stack([value.detach().float() for value in figures.values()])
            self.kept.append((step, rates, values))

    def read(self, accelerator: Accelerator) -> list[Row]:
        """The rows. Each figure is the mean over the processes, which all must call this."""
        if not self.kept:  # these steps were skipped
            return []
        values = torch.stack([values for _, _, values in self.kept])  # [rows, figures]
        means = accelerator.reduce(values, "mean").tolist()
        return [
            {"step": self.first + step, **dict(zip(self.names, row, strict=True)), **rates}
            for (step, rates, _), row in zip(self.kept, means, strict=True)
        ]
