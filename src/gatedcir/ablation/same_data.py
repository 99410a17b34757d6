"""Check the data of runs before they start, and that runs saw the same before they are compared."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gatedcir.ablation.folders import that_folder
from gatedcir.ablation.runs import Run
from gatedcir.ablation.tables import provenance_of
from gatedcir.assemble.data import features_folder, load_training
from gatedcir.assemble.recipes import prepare
from gatedcir.data.fingerprint import KEY, fingerprints
from gatedcir.errors import UserError
from gatedcir.models.weights.locations import locate
from gatedcir.options.checks import check_batch
from gatedcir.run_folder.checkpoint import find


def check_data(runs: Sequence[Run], waiting: Sequence[Run] = ()) -> None:
    """Compare the data of all finished runs. Runs of earlier versions have no fingerprint.

    Args:
        runs: finished or not.
        waiting: runs that are about to start. Their data are read, and compared too.

    Raises:
        UserError: the data differ, cannot be read, or are too few for a batch; the weights of a
            waiting run are not there, or the finished run that it starts from kept none; a run's
            provenance is damaged.
    """
    seen = {
        str(run.path): found
        for run in runs
        if run.is_finished() and (found := provenance_of(run).get(KEY))
    }
    first: dict[str, tuple[str, str]] = {}  # split or file -> who saw it first, its fingerprint
    if waiting:
        now = f"what {waiting[0].config.data.folder} holds now"
        first = {name: (now, value) for name, value in _read(waiting).items()}
        _check_starts(waiting, runs)
    for run, found in seen.items():
        for name, value in found.items():
            other, expected = first.setdefault(name, (run, value))
            if value != expected:
                raise UserError(
                    f"{run} saw other data than {other} ({name} differs), and cannot be compared; "
                    "put the old data back, name another --output, or remove that run."
                )


def _read(runs: Sequence[Run]) -> dict[str, str]:
    """The fingerprints of the splits and the further captions that runs are about to see.

    They are read once for each list of further captions, whose triplets count too.

    Raises:
        UserError: they cannot be read, or are too few for a batch of a run.
    """
    found: dict[str, str] = {}
    by_files: dict[tuple[Path, ...], list[Run]] = {}
    for run in runs:
        by_files.setdefault(run.config.recipe.extra_captions, []).append(run)
    for files, some in by_files.items():
        config = some[0].config
        with _told_of(some[0].cell if files else None):
            train, val = load_training(config, "train", "val", folder=features_folder(config))
            prepared = prepare(config, train)
        for run in some:
            with _told_of(run.cell):
                check_batch(run.config, len(prepared.triplets), 1)
        found |= fingerprints([*train, *val]) | prepared.fingerprints
    return found


@contextmanager
def _told_of(cell: str | None) -> Iterator[None]:
    """A UserError also names the cell, if one is given."""
    try:
        yield
    except UserError as error:
        if cell is None:
            raise
        raise UserError(f"cell {cell}: {error}") from None


def _check_starts(waiting: Sequence[Run], runs: Sequence[Run]) -> None:
    """UserError if the weights that a waiting run starts from are not there."""
    for run in waiting:
        if run.source is not None and run.source.is_finished():
            try:
                find(run.source.path)
            except UserError:
                raise UserError(
                    f"cell {run.cell} starts from {run.source.path}, which kept no weights; to "
                    f"train it again, remove {that_folder(run.source, runs)}."
                ) from None
    own = (run.config.backbone.backbone for run in waiting if run.source is None)
    for name in dict.fromkeys(own):
        locate(name)
