"""Check the data of runs before they start, and that runs saw the same before they are compared."""

from collections.abc import Sequence
from pathlib import Path

from gatedcir.ablation.runs import Run
from gatedcir.ablation.tables import provenance_of
from gatedcir.assemble.data import features_folder, load_training
from gatedcir.data.fingerprint import KEY, changed_split, fingerprints
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
    first, expected = next(iter(seen.items()), ("", {}))
    if waiting:
        now = waiting[0].config
        train, val = load_training(now, "train", "val", folder=features_folder(now))
        _check_starts(waiting, sum(len(part.triplets) for part in train))
        first, expected = f"what {now.data.folder} holds now", fingerprints([*train, *val])
    for run, found in seen.items():
        if name := changed_split(found, expected):
            raise UserError(
                f"{run} saw other data than {first} ({name} differs), and cannot be compared; put "
                "the old data back, name another --output, or remove that run."
            )


def _check_starts(runs: Sequence[Run], triplets: int) -> None:
    """UserError if the triplets are too few for a run, or its weights are not there."""
    for run in runs:
        try:
            check_batch(run.config, triplets, 1)
        except UserError as error:
            raise UserError(f"cell {run.cell}: {error}") from None
        if run.source is not None and run.source.is_finished():
            _check_kept(run.source.path, run.cell)
    for name in dict.fromkeys(run.config.backbone.backbone for run in runs if run.source is None):
        locate(name)


def _check_kept(run: Path, cell: str) -> None:
    """UserError if a finished run, from which a cell starts, kept no weights."""
    try:
        find(run)
    except UserError:
        raise UserError(
            f"cell {cell} starts from {run}, which kept no weights; remove that folder to train "
            "it again."
        ) from None
