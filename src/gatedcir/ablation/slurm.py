"""The runs of a grid as jobs of Slurm, by submitit (the extra `slurm`).

A job starts the same process as an ablation on one machine, in the run's folder, which all machines
must see. At the time limit or a preemption the run saves its state, and its job is queued again.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

from gatedcir.ablation.runs import ERRORS, Run, Started, start_run
from gatedcir.errors import UserError, reason_of
from gatedcir.files import check_was_read, parse_json, write_json

JOBS = "jobs.json"  # the number of each run's job


class Training:
    """What a job does."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._process: subprocess.Popen | None = None

    def __call__(self) -> int:
        """Train, and return the status of the process."""
        self._process = start_run(self.run, dict(os.environ))
        return self._process.wait()

    def checkpoint(self) -> Any:
        """End the training, which saves its state, and queue a job that goes on."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        return DelayedSubmission(Training(self.run))


class _Job:
    """A job as `execute` sees a process."""

    def __init__(self, job: Any, run: Run) -> None:
        self._job, self._run = job, run
        self.returncode = 0

    def poll(self) -> int | None:
        if not self._job.done():
            return None
        if (error := self._job.exception()) is None:
            self.returncode = self._job.result()
        else:
            self._run.path.mkdir(parents=True, exist_ok=True)
            with (self._run.path / ERRORS).open("a", encoding="utf-8") as file:
                last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                file.write(f"\njob {self._job.job_id} ended without a result: {last}\n")
            self.returncode = 1
        return self.returncode

    def terminate(self) -> None:
        self._job.cancel(check=False)

    def wait(self) -> int:
        return self.returncode


class SlurmJobs:
    """Starts runs as jobs.

    Args:
        output: of the ablation. `slurm` in it holds submitit's files.
        options: of sbatch, in submitit's names, such as `partition=gpu`.

    Raises:
        UserError: submitit is not installed, this machine has no Slurm, or it has no such option.
    """

    def __init__(self, output: Path, *, options: tuple[str, ...], jobs: int) -> None:
        try:
            import submitit
        except ImportError:
            raise UserError(
                "--engine slurm needs submitit, which is not installed; run pip install "
                "'gatedcir[slurm]'."
            ) from None
        folder = output / "slurm"
        try:
            self._executor = submitit.SlurmExecutor(folder=folder)
            self._executor.update_parameters(**dict(map(_option, options)))
        except (RuntimeError, NameError, ValueError, TypeError) as error:
            raise UserError(
                f"--engine slurm cannot be used here ({reason_of(error)}); start it on a machine "
                "that submits jobs, with options that sbatch has."
            ) from None
        self._file = folder / JOBS
        self._numbers: dict[str, str] = {}
        if self._file.exists():  # jobs of an ablation that was killed may still wait
            for number in _numbers(self._file):
                self._executor.job_class(folder, number).cancel(check=False)

    def start(self, run: Run) -> Started:
        """Queue a run."""
        job = self._executor.submit(Training(run))
        self._numbers[f"{run.cell} {run.seed}"] = job.job_id
        write_json(self._file, self._numbers)
        return _Job(job, run)


def _numbers(file: Path) -> list[str]:
    """The numbers of jobs in a file. UserError if it is damaged."""
    try:
        return [str(number) for number in parse_json(file.read_text(encoding="utf-8")).values()]
    except (OSError, ValueError, AttributeError) as error:
        check_was_read(file, error)
        raise UserError(
            f"{file} is damaged ({reason_of(error)}); look with squeue for jobs that still wait, "
            "and delete the file."
        ) from None


def _option(text: str) -> tuple[str, str | int]:
    """An option of sbatch. UserError if it has no value.

    >>> _option("partition=gpu"), _option("time=720")
    (('partition', 'gpu'), ('time', 720))
    """
    name, equals, value = text.partition("=")
    if not name or not equals or not value:
        raise UserError(f"--slurm {text} is no option; give NAME=VALUE, such as partition=gpu.")
    return name, int(value) if value.isdigit() else value
