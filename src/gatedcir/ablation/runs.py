"""The runs of a grid: one training command each, in its own process, any number at a time.

A run's folder tells whether the run is done, so that a stopped ablation goes on where it was.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from gatedcir.ablation.cells import Cell, Grid, chosen
from gatedcir.children import start
from gatedcir.errors import UserError
from gatedcir.files import CONFIG_FILE, write_text
from gatedcir.options.config import Config
from gatedcir.options.parsing import flags_of
from gatedcir.progress import bar
from gatedcir.run_folder.checkpoint import goes_on
from gatedcir.run_folder.claim import LOCK, in_use
from gatedcir.run_folder.folder import TRAIN, VALIDATION, read_table

TRAINER = (sys.executable, "-m", "gatedcir", "train")
RUNS = "runs"  # the folder of all of them in an ablation's folder
OUTPUT, ERRORS, FAILURE = "output.log", "errors.log", "failure.txt"
LOGS = {OUTPUT, ERRORS, FAILURE, LOCK}  # left by a run that failed at once
WAY_OUT = "remove the folder to train that run again"  # the alternative to a copy of a damaged file
_TAIL = 2**16  # bytes of a log that are searched for its last line
_PAUSE = 0.2  # seconds from one look at the processes to the next
_REFRESH = 10  # seconds from one drawing of the bar to the next while no run ends


@dataclass(frozen=True)
class Run:
    """One cell with one seed."""

    cell: str
    seed: int
    config: Config
    source: "Run | None" = None
    """The run that it starts from."""

    @property
    def path(self) -> Path:
        """Its folder."""
        assert self.config.run.output is not None
        return self.config.run.output

    def is_finished(self) -> bool:
        """Whether its tables hold all epochs, and its process did not fail.

        Raises:
            UserError: a table is damaged, or has lost rows.
        """
        files = [self.path / name for name in (TRAIN, VALIDATION)]
        if (self.path / FAILURE).exists() or not all(file.is_file() for file in files):
            return False
        train, validation = (read_table(file, way_out=WAY_OUT)["epoch"].tolist() for file in files)
        epochs = list(range(self.config.optim.num_epochs))
        if validation[-1:] != epochs[-1:]:
            return False
        if train != epochs:
            raise UserError(
                f"{files[0]} has lost rows, as {VALIDATION} knows of more epochs; put a copy of it "
                f"back, or {WAY_OUT}."
            )
        return True

    def failure(self) -> str | None:
        """Why it failed, or None."""
        file = self.path / FAILURE
        return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def runs_of(grid: Grid, output: Path) -> list[Run]:
    """All runs, one seed of all cells after the other, so that a stopped ablation has pairs."""
    cells = {cell.name: cell for cell in grid.cells}

    def run_of(cell: Cell, number: int) -> Run:
        seed = cell.config.optim.seed + number
        path = output / RUNS / cell.name / f"seed{seed}"
        config = replace(
            cell.config,
            optim=replace(cell.config.optim, seed=seed),
            run=replace(cell.config.run, output=path),
        )
        if cell.source is None:
            return Run(cell.name, seed, config)
        source = run_of(cells[cell.source], number)
        config = replace(
            config,
            backbone=replace(config.backbone, backbone=str(source.path)),
            recipe=replace(config.recipe, from_run=source.path),
        )
        return Run(cell.name, seed, config, source)

    numbers = range(max(cell.seeds for cell in grid.cells))
    return [run_of(cell, n) for n in numbers for cell in grid.cells if n < cell.seeds]


def check_are_runs(runs: Sequence[Run]) -> None:
    """UserError if a run's folder holds something that is no run. `execute` would remove it."""
    for run in runs:
        if not run.path.exists() or (run.path / CONFIG_FILE).is_file():
            continue
        if not run.path.is_dir() or {file.name for file in run.path.iterdir()} - LOGS:
            raise UserError(f"{run.path} is no run; remove it or name another --output.")


def command_of(config: Config, source: Config | None = None) -> list[str]:
    """The training command with these options. It names only those that `chosen` gives."""
    return [*TRAINER, *flags_of(chosen(config, source))]


class Started(Protocol):
    """A run that was started, as `subprocess.Popen` shows it."""

    returncode: int | Any

    def poll(self) -> int | None:
        """The status of its process, or None while it runs."""

    def terminate(self) -> None:
        """Ask it to end."""

    def wait(self) -> int:
        """Wait until it has ended."""


class Engine(Protocol):
    """Starts runs."""

    def start(self, run: Run) -> Started:
        """Start a run. A finished one never comes here."""


class Processes:
    """Starts runs as processes of this machine. They share the cores that one would use."""

    def __init__(self, output: Path, *, options: tuple[str, ...] = (), jobs: int) -> None:
        if options:
            raise UserError("--slurm is for --engine slurm; give that too, or leave it out.")
        threads = str(max(1, torch.get_num_threads() // jobs))
        self._environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}

    def start(self, run: Run) -> Started:
        """As `Engine`."""
        return start_run(run, self._environment)


def check_free(runs: Sequence[Run]) -> None:
    """UserError if a run's folder is in use by another process."""
    for run in runs:
        if in_use(run.path):
            raise UserError(
                f"{run.path} is in use by a training that still runs; wait until it ends, or name "
                "another --output."
            )


def execute(runs: Sequence[Run], *, jobs: int, engine: Engine | None = None) -> None:
    """Run all, `jobs` at a time. A failed run leaves the reason in its folder, and others go on.

    Unfinished runs go on from the state that they saved. The files of others are removed first.
    A run waits for the one that it starts from, and fails with it. Without an engine, they are
    processes of this machine.

    Raises:
        UserError: a folder is in use by another process, before anything is removed.
    """
    check_free(runs)
    starts: Engine = Processes(Path(), jobs=jobs) if engine is None else engine
    waiting, active = list(runs), dict[Run, Started]()
    # No smoothing: the drawings between two ends would count as waiting for a run.
    settings: dict[str, Any] = {"mininterval": _REFRESH, "miniters": 0, "smoothing": 0}
    with bar(total=len(runs), desc="runs", unit="run", **settings) as shown:
        try:
            while waiting or active:
                while len(active) < jobs and (run := _next(waiting, active)) is not None:
                    waiting.remove(run)
                    if _can_start(run):
                        active[run] = starts.start(run)
                    else:
                        shown.update()
                time.sleep(_PAUSE)
                for run, process in list(active.items()):
                    if process.poll() is not None:
                        del active[run]
                        _note_failure(run, process.returncode)
                        shown.update()
                shown.set_postfix_str(", ".join(map(_state, active)), refresh=False)
                shown.update(0)
        finally:
            for process in active.values():
                process.terminate()
            for process in active.values():
                process.wait()


def _next(waiting: Sequence[Run], active: Collection[Run]) -> Run | None:
    """The first run that waits for no other."""
    return next((run for run in waiting if run.source not in {*waiting, *active}), None)


def _can_start(run: Run) -> bool:
    """Whether the run that it starts from is finished. Else the reason is written down."""
    source = run.source
    if source is None or source.is_finished():
        return True
    run.path.mkdir(parents=True, exist_ok=True)
    reason = f"it starts from {source.cell}, seed {source.seed}, which failed: {source.failure()}"
    write_text(run.path / FAILURE, reason + "\n")
    return False


def start_run(run: Run, environment: dict[str, str]) -> subprocess.Popen:
    """Start the process of a run, which goes on where it has saved its state."""
    if goes_on(run.path):
        command = [*TRAINER, "--resume", str(run.path)]
        if run.source is not None:  # which lies elsewhere now if the ablation's folder was moved
            command += ["--backbone", str(run.source.path)]
        (run.path / FAILURE).unlink(missing_ok=True)
    else:
        shutil.rmtree(run.path, ignore_errors=True)
        run.path.mkdir(parents=True)
        command = command_of(run.config, None if run.source is None else run.source.config)
    with (run.path / OUTPUT).open("wb") as output, (run.path / ERRORS).open("wb") as errors:
        return start(command, environment, stdout=output, stderr=errors)


def _state(run: Run) -> str:
    """Which run, and how far its own bar is: "gated 0, epoch 1:  45%"."""
    progress = re.match(r".*?: +\d+%", _last_line(run.path / ERRORS))
    name = f"{run.cell} {run.seed}"
    return f"{name}, {progress.group()}" if progress else name


def _note_failure(run: Run, status: int) -> None:
    """Write down why a process failed, if it did."""
    if status == 0 and run.is_finished():
        return
    line = _last_line(run.path / ERRORS)
    if status < 0:
        reason = f"killed by {signal.Signals(-status).name}" + (f" after: {line}" if line else "")
    elif status == 0:
        reason = "ended without all of its epochs"
    else:
        reason = line or f"ended with status {status} and no message"
    write_text(run.path / FAILURE, reason + "\n")


def _last_line(path: Path) -> str:
    """The last line of a log that is not blank. Progress bars end lines by a carriage return."""
    if not path.exists():  # a job that waits has none
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
