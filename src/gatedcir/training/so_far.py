"""An epoch's figures so far, which a resumed run takes up in the middle of the epoch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gatedcir.run_folder.checkpoint import Checkpoint
from gatedcir.training.accumulate import random_state, set_random_state
from gatedcir.training.health import StepLosses
from gatedcir.training.step_rows import Row, StepRows


@dataclass
class SoFar:
    """What the steps of an epoch have left on one process, apart from the weights."""

    rows: StepRows
    device: torch.device
    steps: int = 0
    """Steps that are done."""
    seconds: float = 0.0
    """Their time."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Of each figure."""
    each: list[Tensor] = field(default_factory=list)
    """(loss, contrastive term) of every step that was not skipped."""
    skipped: int = 0
    """Steps that were skipped, because their loss was not finite."""
    unseen: list[tuple[int, Tensor]] = field(default_factory=list)
    """Steps since the last look at their losses, and these."""
    encoded: Mapping[str, Tensor] = field(default_factory=dict)
    """What a resumed epoch's first weights encoded; see `TrainingStep.encoded`."""
    random: list[Tensor] | None = None
    """The random states that the next step begins with. None at an epoch's start."""

    def begin(self) -> None:
        """Draw on from where the steps before ended. Loaders must have drawn their seeds before."""
        if self.random is not None:
            set_random_state(self.random, self.device)
            self.random = None

    def add(self, figures: Mapping[str, Tensor], temperature: Tensor, rates: Row) -> None:
        """Take a step's figures, among them `loss` and `loss_itc`, and its learning rates."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float()
        self.rows.add(self.steps, {**figures, "temp": temperature}, rates)
        self.each.append(torch.stack([figures["loss"], figures["loss_itc"]]).detach().float())
        self.unseen.append((self.steps, self.each[-1][0]))
        self.steps += 1

    def skip(self) -> None:
        """Count a step without its figures."""
        self.skipped += 1
        self.steps += 1

    def look(self) -> list[tuple[int, float]]:
        """Numbers and losses of the steps since the last look. This waits for the device."""
        steps, losses = [step for step, _ in self.unseen], [loss for _, loss in self.unseen]
        self.unseen = []
        return list(zip(steps, torch.stack(losses).tolist(), strict=True)) if losses else []

    def means(self) -> dict[str, Tensor]:
        """Of each figure over the steps that were not skipped."""
        return {name: value / len(self.each) for name, value in self.sums.items()}

    def medians(self) -> StepLosses:
        """Of the steps' losses."""
        return StepLosses(*torch.stack(self.each).median(0).values.tolist())

    def state(self) -> dict[str, Any]:
        """All of it as plain values and tensors on the CPU."""
        return {
            "steps": self.steps,
            "seconds": self.seconds,
            "sums": {name: value.cpu() for name, value in self.sums.items()},
            "each": torch.stack(self.each).cpu() if self.each else torch.empty(0, 2),
            "skipped": self.skipped,
            "random": random_state(self.device),
            "names": self.rows.names,
            "rows": [(step, rates, values.cpu()) for step, rates, values in self.rows.kept],
        }

    def resume(self, run: Checkpoint | None, epoch: int, process: int) -> None:
        """Take up the epoch where a run was saved in the middle of it, if it was."""
        if run is None or run.trainer is None or run.epoch != epoch:
            return
        if parts := run.trainer.get("so_far"):  # earlier versions have none
            self._load(parts[process])
            self.encoded = run.trainer.get("encoded", {})

    def _load(self, state: Mapping[str, Any]) -> None:
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self.each = list(state["each"].to(self.device))
        self.skipped = state["skipped"]
        self.random = state["random"]
        self.rows.names = list(state["names"])
        self.rows.kept = [(n, rates, values.to(self.device)) for n, rates, values in state["rows"]]
