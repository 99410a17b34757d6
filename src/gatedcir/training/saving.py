"""When a run saves the state that --resume goes on from, and when it ends as it was asked to."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object

from gatedcir.errors import Stopped
from gatedcir.options.config import RunConfig
from gatedcir.run_folder import checkpoint
from gatedcir.run_folder.checkpoint import BEFORE, BEST, LAST, Checkpoint
from gatedcir.run_folder.folder import VALIDATION, RunFolder
from gatedcir.training.averaging import AveragedWeights, Measured, better_weights
from gatedcir.training.so_far import SoFar
from gatedcir.training.stop import Stop

Check = Callable[[], Measured]
"""A validation."""
_APART = 10  # steps from one agreement of several GPUs to the next, which waits for all of them


@dataclass
class Saving:
    """Saves a run. All processes have one and call it, because weights may be in shards."""

    options: RunConfig
    accelerator: Accelerator
    stop: Stop
    take: Callable[..., Checkpoint]
    """The run's state after so many epochs, gathered from all processes; see `Trainer.take`."""
    open: Callable[[], RunFolder] | None
    """Opens the run's folder, which is made if it is missing. None on processes that write none."""
    goes_on: bool
    """Whether the run was resumed. Its old state must then not stay behind."""
    best: float
    """The best score so far."""
    saved: float = field(default_factory=time.monotonic)
    """When it was saved the last time."""

    @property
    def is_regular(self) -> bool:
        """Whether the state is saved also if nobody asks the run to end."""
        return self.options.keeps_last or (self.options.save and self.goes_on)

    def asked(self, steps: int = 0) -> tuple[int, bool]:
        """A signal that came to any process (0 if none), and whether it is time to save.

        Args:
            steps: of the epoch that are done. Several GPUs look up only after some of them.
        """
        minutes, every = self.options.save_every_minutes, self.options.save_every_steps
        late = minutes > 0 and time.monotonic() - self.saved >= 60 * minutes
        due = self.is_regular and every > 0 and steps > 0 and steps % every == 0
        found = [self.stop.asked, int(late and self.is_regular)]
        if self.accelerator.num_processes > 1:
            if self.accelerator.device.type != "cpu" and steps % _APART:
                found = [0, 0]
            else:
                agreed = torch.tensor(found, device=self.accelerator.device)
                dist.all_reduce(agreed, dist.ReduceOp.MAX)
                found = agreed.tolist()
        return found[0], bool(found[1]) or due

    def after_step(self, epoch: int, so_far: SoFar) -> None:
        """Save within an epoch if it is time.

        Raises:
            Stopped: a signal came, and the state is saved as far as the options allow.
        """
        self.stop.where = f"in epoch {epoch} after step {so_far.steps}"
        number, due = self.asked(so_far.steps)
        if due or (number and self.options.save):
            parts = gather_object([so_far.state()])
            self.write(self.take(epoch, within=True), so_far=parts, stops=bool(number))
        if number:
            raise Stopped(number)

    def write(
        self,
        taken: Checkpoint | None,
        metrics: dict[str, float] | None = None,
        *,
        so_far: list[dict[str, Any]] | None = None,
        stops: bool = False,
    ) -> None:
        """Save the state, on the process that writes.

        Args:
            taken: the result of `take`.
            metrics: of the epoch that ended.
            so_far: an epoch that is not done, as each process has it.
            stops: the run ends here, so that options which save nothing regularly do not count.
        """
        if taken is None or not (self.is_regular or stops):
            return
        self.saved = time.monotonic()  # on all processes, which agree on when the next save is due
        if self.open is None:
            return
        folder = self.open()
        assert taken.trainer is not None
        more = {"best": self.best, "tables": folder.tables, "so_far": so_far}
        kept = replace(taken, metrics=metrics or {}, trainer={**taken.trainer, **more})
        checkpoint.save(folder.checkpoints / LAST, kept, before=BEFORE)

    def end_epoch(
        self,
        taken: Checkpoint | None,
        check: Check | None,
        averaged: AveragedWeights | None = None,
        *,
        epoch: int,
        headline: str,
    ) -> None:
        """Validate and save. The state is written once, if nobody stops and no save is overdue.

        Args:
            taken: the result of `take`. None if nothing is to be kept.
            check: validates. None if that is not due.
            averaged: other weights that may be the better ones.
            epoch: its number.
            headline: the metric by which the best model is chosen.

        Raises:
            Stopped: a signal came before the validation or in it, and the state is saved.
        """
        self.stop.where = f"at the end of epoch {epoch}"
        number, late = self.asked()
        only = self.options.save_every_minutes == 0  # nothing else would save the epoch
        if number or late or only or check is None:
            self.write(taken, stops=bool(number))
        if number:
            raise Stopped(number)
        if check is None or self.open is None:
            return
        with ExitStack() as better:
            try:
                metrics, figures = better.enter_context(
                    better_weights(averaged, partial(self._at_once, check), headline=headline)
                )
            except BaseException as error:
                # It may be a broken image. The epoch is not lost: a resumed run begins with the
                # validation that is missing.
                self.write(taken, stops=isinstance(error, Stopped))
                raise
            if self.options.keeps_best and taken is not None and metrics[headline] > self.best:
                best = replace(taken, metrics=metrics, trainer=None)
                checkpoint.save(self.open().checkpoints / BEST, best)
        self.best = max(self.best, metrics[headline])
        self.open().add(VALIDATION, epoch, metrics | figures)
        self.write(taken, metrics)

    def _at_once(self, check: Check) -> Measured:
        """Validate, and end at once if a signal comes."""
        with self.stop.now():
            return check()
