"""Check that runs saw the same data before they are compared."""

from collections.abc import Sequence

from gatedcir.ablation.runs import Run
from gatedcir.ablation.tables import provenance_of
from gatedcir.assemble.data import load_data
from gatedcir.data.fingerprint import KEY, changed_split, fingerprints
from gatedcir.errors import UserError
from gatedcir.options.config import DataConfig


def check_data(runs: Sequence[Run], now: DataConfig | None = None) -> None:
    """Compare the data of all finished runs. Runs of earlier versions have no fingerprint.

    Args:
        runs: finished or not.
        now: the data of runs that are about to start, which is compared too.

    Raises:
        UserError: the data differ, or a run's provenance is damaged.
    """
    seen = {
        str(run.path): found
        for run in runs
        if run.is_finished() and (found := provenance_of(run).get(KEY))
    }
    if not seen:
        return
    first, expected = next(iter(seen.items()))
    if now is not None:
        parts = [part for split in load_data(now, "train", "val") for part in split]
        first, expected = f"what {now.folder} holds now", fingerprints(parts)
    for run, found in seen.items():
        if name := changed_split(found, expected):
            raise UserError(
                f"{run} saw other data than {first} ({name} differs), and cannot be compared; put "
                "the old data back, name another --output, or remove that run."
            )
