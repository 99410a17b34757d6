"""A run's folder: resolved config, provenance, metrics by epoch, checkpoints."""

import itertools
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pandas.api.types import is_integer_dtype, is_numeric_dtype
from torch.utils.tensorboard import SummaryWriter

from gatedcir.errors import UserError, check_folder_to_write, reason_of
from gatedcir.files import CONFIG_FILE, remove_unfinished, room_for, write_json, write_text
from gatedcir.run_folder.checkpoint import BEFORE, BEST, CHECKPOINTS, LAST, goes_on
from gatedcir.run_folder.claim import LOCK, Claim
from gatedcir.run_folder.trackers import Pictures, Trackers

RUNS = Path("runs")  # holds the folders of runs without --output
BOARD = "tensorboard"
TENSORBOARD = "tensorboard"  # the tracker whose files a run's folder holds
LOG = ".log"  # files that whatever started the run may keep in its folder
TRAIN, VALIDATION = "train_metrics.csv", "validation_metrics.csv"
STEPS = "train_steps.csv"
NOT_FINITE = "not_finite"  # names the triplets of steps whose loss was not finite
Tables = dict[str, list[dict[str, Any]]]
"""Rows of each table, by its file."""


@dataclass(frozen=True)
class Place:
    """A folder that this process may write."""

    path: Path
    resumes: bool
    """Whether there is a state to go on with. Else the run starts at its beginning."""


@contextmanager
def claimed(*, output: Path | None, resume: Path | None, name: str) -> Iterator[Place]:
    """The run's folder, for this process alone.

    If a process was killed or failed before it saved anything, both a new run and `--resume` start
    at the beginning in its folder.

    Args:
        output: the folder of a new run. If it is None, one below RUNS.
        resume: the folder of the run that goes on, if one does.
        name: the beginning of the folder's name below RUNS.

    Raises:
        UserError: another process has the folder, it holds a run, or it cannot be made.
    """
    claim = Claim(resume) if resume is not None else _new_claim(output, name)
    path = claim.folder
    started = finished = False
    try:
        if claim.was_left:
            remove_unfinished(path)
            remove_unfinished(path / CHECKPOINTS)
        again = claim.was_left and _is_bare(path)
        if resume is None and not again:
            _check_new(path)
        if again:
            print(f"{path} holds a run that was stopped before it kept anything; it starts again")
            shutil.rmtree(path / NOT_FINITE, ignore_errors=True)  # of the steps before
        started = True
        yield Place(path, resumes=resume is not None and not again)
        finished = True
    finally:
        claim.release(leave=started and not finished and _is_bare(path))


def _new_claim(given: Path | None, name: str) -> Claim:
    """The folder that the options name, or else a new one below RUNS."""
    check_folder_to_write(given or RUNS, "--output")
    if given is not None:
        return Claim(given)
    name += time.strftime("-%Y%m%d-%H%M%S")
    for number in itertools.count(1):
        path = RUNS / (name if number == 1 else f"{name}-{number}")
        if not path.exists():
            with suppress(UserError):  # a process that began in the same second has it
                return Claim(path)
    raise AssertionError("numbers have no end")


def _check_new(path: Path) -> None:
    """UserError if a path already holds a run, or files that are neither locks nor logs."""
    if (path / CONFIG_FILE).exists():
        raise UserError(
            f"{path} already holds a run; name another folder with --output, or go on "
            f"with --resume {path} if it kept its training."
        )
    for file in sorted(path.iterdir()):
        if file.name != LOCK and file.suffix != LOG:
            raise UserError(
                f"{path} is no run, as it holds {file.name!r}; name a new folder with --output."
            )


def _is_bare(path: Path) -> bool:
    """Whether a folder holds a run without weights and without a validation."""
    kept = [*(path / CHECKPOINTS / name for name in (BEST, LAST, BEFORE)), path / VALIDATION]
    return (path / CONFIG_FILE).exists() and not any(file.exists() for file in kept)


class RunFolder:
    """Writes the files of a run. Every file is replaced whole."""

    def __init__(
        self,
        path: Path,
        *,
        done: int = 0,
        kept: Tables | None = None,
        trackers: Sequence[str] = (TENSORBOARD,),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Open a folder. Rows of epochs after `done` are dropped: resuming makes them again.

        Args:
            path: the folder.
            done: epochs that are done.
            kept: rows of the checkpoint. A table that does not begin with them is written again
                from them.
            trackers: names of what shows the figures.
            config: the run's options, for the trackers.
        """
        self.path = path
        self.tables = rows_until(path, done, kept)
        for name, rows in self.tables.items() if kept is not None else ():
            if rows and not _begins_with(path / name, _text(rows)):
                print(f"{path / name} is not as training left it: written again from {LAST}")
                write_text(path / name, _text(rows))
        self.board = None
        if TENSORBOARD in trackers:
            self.board = SummaryWriter(str(path / BOARD), purge_step=done)
        step = int(self.tables[STEPS][-1]["step"]) if self.tables[STEPS] else 0
        self.trackers = Trackers(path, trackers, config or {}, step=step)

    @classmethod
    def create(
        cls,
        path: Path,
        config: dict[str, Any],
        made_by: dict[str, Any],
        *,
        trackers: Sequence[str] = (TENSORBOARD,),
    ) -> "RunFolder":
        """Write config and provenance of a new run into a claimed folder."""
        write_text(path / CONFIG_FILE, yaml.safe_dump(config, sort_keys=False))  # makes it a run
        write_json(path / "provenance.json", made_by)
        return cls(path, trackers=trackers, config=config)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / CHECKPOINTS

    def add(self, table: str, epoch: int, row: dict[str, float]) -> None:
        """Append one epoch's row to a table and to what shows it."""
        rows = self.tables[table]
        rows.append({"epoch": epoch, **row})
        write_text(self.path / table, _text(rows))
        kind = table.removesuffix("_metrics.csv")
        self.trackers.add(kind, epoch, row, waits=table == TRAIN)
        if self.board is None:
            return
        with room_for(self.path / BOARD):
            for name, value in row.items():
                self.board.add_scalar(f"{kind}/{name}", value, epoch)
            self.board.flush()

    def add_steps(self, epoch: int, rows: list[dict[str, float]]) -> None:
        """Append the rows of an epoch's steps to their table and to what shows them.

        TensorBoard counts them in steps and not in epochs, so they have a folder of their own.
        """
        if not rows:
            return
        self.tables[STEPS] += [{"epoch": epoch, **row} for row in rows]
        write_text(self.path / STEPS, _text(self.tables[STEPS]))
        self.trackers.add_steps(rows)
        if self.board is None:
            return
        board = self.path / BOARD / "steps"
        with (
            room_for(board),
            SummaryWriter(str(board), purge_step=int(rows[0]["step"])) as writer,
        ):
            for row in rows:
                for name, value in row.items():
                    if name != "step":
                        writer.add_scalar(f"steps/{name}", value, int(row["step"]))

    def add_pictures(self, epoch: int, pictures: Pictures) -> None:
        """Show pictures of an epoch."""
        self.trackers.add_pictures(pictures)
        if self.board is not None:
            with room_for(self.path / BOARD):
                for name, image in pictures.items():
                    self.board.add_image(name, image, epoch, dataformats="HWC")
                self.board.flush()

    def close(self) -> None:
        """End what shows the run."""
        self.trackers.close()
        if self.board is not None:
            self.board.close()


def rows_until(path: Path, done: int, kept: Tables | None = None) -> Tables:
    """A run's rows of epochs before `done`, from its checkpoint if it has them, else from files.

    Raises:
        UserError: a file is damaged.
    """
    found: Tables = {}
    for name in (TRAIN, VALIDATION):
        file = path / name
        if kept is not None:
            rows = kept[name]
        elif done and file.is_file():
            table = read_table(file, way_out="remove it to go on without its rows")
            rows = [{str(k): v for k, v in r.items()} for r in table.to_dict("records")]
        else:
            rows = []
        found[name] = [row for row in rows if row["epoch"] < done]
    # Runs of earlier versions have no steps.
    found[STEPS] = [row for row in (kept or {}).get(STEPS, []) if row["epoch"] < done]
    return found


def has(tables: Tables, table: str, epoch: int) -> bool:
    """Whether a table has an epoch's row."""
    return any(row["epoch"] == epoch for row in tables[table])


def read_table(file: Path, *columns: str, way_out: str) -> pd.DataFrame:
    """A table of epochs, in their order.

    Args:
        file: as `RunFolder` wrote it.
        columns: columns other than the epoch that must hold a number in every row.
        way_out: ends the message, after the advice to put a copy back.

    Raises:
        UserError: it is no such table.
    """
    try:
        table = pd.read_csv(file)
    except ValueError as error:  # also pandas' own errors, and that of a wrong encoding
        reason = reason_of(error)
    else:
        lacking = [
            name
            for name in ("epoch", *columns)
            if name not in table or not is_numeric_dtype(table[name]) or table[name].isna().any()
        ]
        if lacking:
            reason = f"no numbers in the column {lacking[0]}"
        elif not is_integer_dtype(table["epoch"]) or not _rises(table["epoch"].tolist()):
            reason = "its epochs do not follow one another"
        else:
            return table
    raise UserError(f"{file} is damaged ({reason}); put a copy of it back, or {way_out}.")


def _rises(numbers: list[int]) -> bool:
    return all(one < two for one, two in itertools.pairwise([-1, *numbers]))


def _text(rows: list[dict[str, Any]]) -> str:
    return pd.DataFrame(rows).to_csv(index=False)


def _begins_with(file: Path, text: str) -> bool:
    if not file.is_file():
        return False
    return file.read_text(encoding="utf-8", errors="replace").startswith(text)


def last_line(path: Path, *, stopped: str) -> str:
    """The message of a stopped run: the content of its folder, and how to go on."""
    if goes_on(path):
        rest = f"all up to its last save is kept; go on with --resume {path}"
    elif (path / CHECKPOINTS / BEST).exists():
        rest = (
            f"the best model so far is kept in {path / CHECKPOINTS / BEST}; to go on after a stop, "
            "a run needs --save-training"
        )
    elif (path / CONFIG_FILE).exists() and not _is_bare(path):
        rest = "its tables are kept, and no weights, as --no-save or --no-save-best asked"
    else:
        rest = "nothing is kept; the same command starts again"
    return f"{stopped}; {rest}."
