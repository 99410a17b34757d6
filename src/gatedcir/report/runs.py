"""A run's folder -> what a report reads of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gatedcir.errors import UserError, reason_of
from gatedcir.files import CONFIG_FILE, check_was_read, parse_json
from gatedcir.options.parsing import read_yaml
from gatedcir.run_folder.checkpoint import BEFORE, BEST, CHECKPOINTS, LAST
from gatedcir.run_folder.folder import STEPS, TRAIN, VALIDATION, read_table

_WAY_OUT = "leave that run out"


@dataclass(frozen=True)
class RunFiles:
    """The files of a run."""

    name: str
    path: Path
    config: dict[str, Any]
    provenance: dict[str, Any]
    train: pd.DataFrame
    validation: pd.DataFrame
    steps: pd.DataFrame

    @property
    def keeps_weights(self) -> bool:
        """Whether it can be evaluated."""
        return any((self.path / CHECKPOINTS / name).is_file() for name in (BEST, LAST, BEFORE))

    @property
    def seconds(self) -> float | None:
        """The time of its training steps. None for a run of an earlier version."""
        triplets = self.provenance.get("triplets")
        if triplets is None or self.train.empty:
            return None
        return float((triplets / self.train["triplets_per_second"]).sum())


def read_runs(paths: Sequence[Path]) -> list[RunFiles]:
    """The files of several runs. Their names are as short as they differ.

    Raises:
        UserError: a path is no run's folder, is given twice, or a file is damaged.
    """
    places = [path.resolve() for path in paths]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UserError(f"{paths[number]} is given twice; leave it out once.")
    return [_read(p, n) for p, n in zip(paths, _names(places), strict=True)]


def _names(places: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that differ.

    >>> _names([Path("/a/x/seed0"), Path("/a/y/seed0")]), _names([Path("/a/x")])
    (['x/seed0', 'y/seed0'], ['x'])
    """
    most = max(len(place.parts) for place in places)
    for length in range(1, most + 1):
        names = ["/".join(place.parts[-length:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]


def _read(path: Path, name: str) -> RunFiles:
    if not (path / CONFIG_FILE).is_file():
        raise UserError(f"{path} is no run's folder, as it lacks {CONFIG_FILE}; check the path.")
    file = path / "provenance.json"
    try:
        provenance = parse_json(file.read_text(encoding="utf-8"))
        if not isinstance(provenance, dict):
            raise ValueError("no object")
    except (ValueError, OSError) as error:
        check_was_read(file, error)
        raise UserError(
            f"{file} is damaged ({reason_of(error)}); put a copy of it back, or {_WAY_OUT}."
        ) from None
    config = read_yaml(path / CONFIG_FILE)
    train, validation = (_table(path / name) for name in (TRAIN, VALIDATION))
    return RunFiles(name, path, config, provenance, train, validation, _steps(path / STEPS))


def _table(file: Path) -> pd.DataFrame:
    return read_table(file, way_out=_WAY_OUT) if file.is_file() else pd.DataFrame()


def _steps(file: Path) -> pd.DataFrame:
    """The rows of single steps. A run of an earlier version has none."""
    try:
        return pd.read_csv(file) if file.is_file() else pd.DataFrame()
    except ValueError as error:
        raise UserError(
            f"{file} is damaged ({reason_of(error)}); put a copy of it back, or {_WAY_OUT}."
        ) from None
