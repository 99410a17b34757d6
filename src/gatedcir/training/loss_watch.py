"""Steps whose loss is not finite: which triplets they had, and the end of the run or of the step.

The loss waits for the device, so it is looked at every few steps. A step that is to be skipped must
look at once (`TrainingStep.was_skipped`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from torch.utils.data import DataLoader
from tqdm import tqdm

from gatedcir.errors import UserError
from gatedcir.files import write_json
from gatedcir.run_folder.folder import NOT_FINITE, RunFolder
from gatedcir.training.health import WAY_OUT
from gatedcir.training.so_far import SoFar


@dataclass
class LossWatch:
    """Looks at the losses of an epoch's steps on one process."""

    epoch: int
    so_far: SoFar
    loader: DataLoader
    run: Path
    """The run's folder."""
    process: int
    open: Callable[[], RunFolder] | None
    """Makes the run's folder, if this process is to."""

    def check(self) -> None:
        """UserError if a step's loss since the last look is not finite. Its triplets are kept."""
        for step, loss in self.so_far.look():
            if not math.isfinite(loss):
                file = self.note(step, loss)
                raise UserError(
                    f"the loss is {loss} in epoch {self.epoch}, step {step} ({file} names its "
                    f"triplets); {WAY_OUT}, or leave such steps out with --on-nan skip."
                )

    def end(self) -> None:
        """Say how many of the epoch's steps were skipped. UserError if all were."""
        skipped, steps = self.so_far.skipped, self.so_far.steps
        if not skipped:
            return
        if skipped == steps:
            raise UserError(
                f"no step of epoch {self.epoch} had a finite loss ({self.run / NOT_FINITE} names "
                f"their triplets); {WAY_OUT}."
            )
        if self.process == 0:
            tqdm.write(
                f"epoch {self.epoch}: the loss of {skipped} of {steps} steps was not finite, and "
                f"they were skipped; {self.run / NOT_FINITE} names their triplets"
            )

    def note(self, step: int, loss: float) -> Path:
        """Write down the triplets of a step."""
        if self.open is not None:
            self.open()
        order = iter(self.loader.sampler)  # begins where the epoch was taken up
        start = self.loader.sampler.start  # type: ignore[attr-defined]
        batch = next(islice(order, step - start, None))
        triplets = self.loader.dataset.triplets  # type: ignore[attr-defined]
        found = {
            "epoch": self.epoch,
            "step": step,
            "loss": str(loss),
            "triplets": [
                {"id": triplets[i].query_id, "reference": triplets[i].reference} for i in batch
            ],
        }
        more = f"-process{self.process}" if self.process else ""
        file = self.run / NOT_FINITE / f"epoch{self.epoch}-step{step}{more}.json"
        write_json(file, found)
        return file
