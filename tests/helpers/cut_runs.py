"""Trainings in this process that something happens to in the middle of an epoch."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

import blip_fine_tune_2
from gatedcir.run_folder import checkpoint
from gatedcir.training.saving import Saving
from gatedcir.training.so_far import SoFar

OF_THE_MACHINE = {"triplets_per_second", "peak_memory_gib"}


class Killed(BaseException):
    """Nothing may be done after it, as after kill -9."""


def killed() -> None:
    """End at once."""
    raise Killed


def interrupted(
    patch: pytest.MonkeyPatch, flags: list[str], *, step: int, how: Callable[[], None] = killed
) -> BaseException:
    """Train, and let something happen after a step and before its state is saved.

    The last step of an epoch does not count, and those of all epochs do.
    """
    calls, after = [], Saving.after_step

    def after_step(self: Saving, epoch: int, so_far: SoFar) -> None:
        calls.append(epoch)
        if len(calls) == step:
            how()
        after(self, epoch, so_far)

    with patch.context() as patched, pytest.raises(BaseException) as end:
        patched.setattr(Saving, "after_step", after_step)
        blip_fine_tune_2.main(flags)
    return end.value


def assert_goes_on(run: Path, *, epoch: int, steps: int, whole: Path) -> None:
    """A killed run was saved there, and equals an undisturbed one after it went on."""
    last = checkpoint.load(run / "checkpoints" / "last.pt")
    assert (last.epoch, last.trainer["so_far"][0]["steps"]) == (epoch, steps)
    blip_fine_tune_2.main(["--resume", str(run)])
    assert_equal_runs(run, whole)


def assert_equal_runs(found: Path, expected: Path) -> None:
    """Weights, averages, metrics and tables are equal, bit for bit."""
    for name in ("last.pt", "best.pt"):
        one, two = (checkpoint.load(run / "checkpoints" / name) for run in (found, expected))
        assert one.epoch == two.epoch and one.metrics == two.metrics
        assert _equal(one.weights, two.weights)
        averages = [(run.trainer or {}).get("averaged", {}) for run in (one, two)]
        assert _equal(*averages)
    for table in ("train_metrics.csv", "validation_metrics.csv", "train_steps.csv"):
        one, two = (pd.read_csv(run / table) for run in (found, expected))
        columns = [c for c in two.columns if c not in OF_THE_MACHINE]
        pd.testing.assert_frame_equal(one[columns], two[columns])


def _equal(one: dict, two: dict) -> bool:
    pairs = [(torch.as_tensor(one[name]), torch.as_tensor(two[name])) for name in two]
    return one.keys() == two.keys() and all(torch.equal(*pair) for pair in pairs)
