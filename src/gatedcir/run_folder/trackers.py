"""Trackers that show a training while it runs, through Accelerate's classes for them.

TensorBoard's files are written by `RunFolder` itself. A tracker that fails must not end a training:
it is left out from then on, and a line says so.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from accelerate import PartialState
from accelerate.tracking import GeneralTracker, MLflowTracker, TrackioTracker, WandBTracker

from gatedcir.errors import UserError, reason_of
from gatedcir.files import parse_json, write_json

PROJECT = "gatedcir"
ADDRESSES = "trackers.json"  # where each tracker shows the run, in the run's folder
Row = Mapping[str, float]
Pictures = Mapping[str, npt.NDArray[np.uint8]]
"""Names -> images [H, W, 3]."""


def _trackio(name: str, known: Mapping[str, str], folder: Path) -> GeneralTracker:
    return TrackioTracker(PROJECT, name=known.get("name", name), resume="allow", embed=False)


def _wandb(name: str, known: Mapping[str, str], folder: Path) -> GeneralTracker:
    settings: dict[str, Any] = {"name": name, "dir": str(folder), "resume": "allow"}
    return WandBTracker(PROJECT, **settings, id=known.get("id"))


def _mlflow(name: str, known: Mapping[str, str], folder: Path) -> GeneralTracker:
    return MLflowTracker(PROJECT, run_id=known.get("id"), run_name=name)


def _keep_mlflow_in(folder: Path) -> None:
    """Let MLflow write files into the run's folder, unless its own variable names a place.

    Its small package reads no database, which is the default, and asks whether files are meant.
    """
    import mlflow

    if "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        mlflow.set_tracking_uri((folder / "mlruns").absolute().as_uri())


OPEN: dict[str, Callable[[str, Mapping[str, str], Path], GeneralTracker]] = {
    "trackio": _trackio,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
"""Name of a tracker -> how it is opened for a run, again where it was if that is known."""


def _address(kind: str, run: Any, name: str) -> dict[str, str]:
    """What finds the run again. The tracker's own program shows it at the address."""
    if kind == "trackio":
        return {"name": name, "address": f"`trackio show --project {PROJECT}`"}
    if kind == "wandb":
        return {"id": str(run.id), "address": str(run.url or run.dir)}
    return {"id": str(run.info.run_id), "address": str(run.info.artifact_uri)}


def _log_row(row: Row, step: int, tracker: GeneralTracker) -> None:
    tracker.log(dict(row), step=step)


def _log_pictures(kind: str, pictures: Pictures, step: int, tracker: Any) -> None:
    if kind == "wandb":
        tracker.log_images({name: [image] for name, image in pictures.items()}, step=step)
    elif kind == "trackio":
        from trackio import Image

        tracker.log({name: Image(image) for name, image in pictures.items()}, step=step)
    else:
        from mlflow import log_image

        for name, image in pictures.items():
            log_image(image, f"{_of_few_signs(name)}-{step}.png")


def _of_few_signs(name: str) -> str:
    """A name as MLflow takes it: it knows few signs, and its names are paths.

    >>> _of_few_signs("validation/mean(R@5+R_s@1)"), _of_few_signs("gate/../two?")
    ('validation/mean_R_5_R_s_1_', 'gate/_/two_')
    """
    parts = (re.sub(r"[^\w\-. :]", "_", part) for part in name.split("/"))
    return "/".join(part if part.strip(".") else "_" for part in parts)


def check_trackers(names: Sequence[str]) -> None:
    """UserError if the package of a tracker is not installed."""
    for name in names:
        if name in OPEN and find_spec(name) is None:
            raise UserError(
                f"--tracker {name} needs its package: pip install {name}, or leave it out."
            )


class Trackers:
    """All trackers of a run. They count in steps."""

    def __init__(
        self, folder: Path, names: Sequence[str], config: Mapping[str, Any], *, step: int
    ) -> None:
        """Open them.

        Args:
            folder: the run's.
            names: those of the trackers.
            config: the run's options, nested.
            step: the last step that was logged before.
        """
        self.step = step
        self.waiting: dict[str, float] = {}  # the row of an epoch, until its steps are logged
        self.open: dict[str, GeneralTracker] = {}
        file = folder / ADDRESSES
        known = parse_json(file.read_text(encoding="utf-8")) if file.is_file() else {}
        PartialState()  # Accelerate's trackers ask it for the process
        for name in names:
            if name in OPEN:
                self._start(name, folder, known, config)
        if self.open:
            write_json(file, known)

    def _start(
        self, name: str, folder: Path, known: dict[str, Any], config: Mapping[str, Any]
    ) -> None:
        run_name = "-".join(folder.resolve().parts[-2:])
        tracker = OPEN[name](run_name, known.get(name, {}), folder)
        self.open[name] = tracker

        def start(one: Any) -> None:
            if name == "mlflow":
                _keep_mlflow_in(folder)
            one.start()
            known[name] = _address(name, one.tracker, run_name)
            print(f"{name} shows this run: {known[name]['address']}")
            one.store_init_configuration(dict(_flat(config)))

        self._each(start, only=name)

    def add(self, kind: str, epoch: int, row: Row, *, waits: bool) -> None:
        """Log the row of an epoch. One that waits is logged after the steps of its epoch."""
        values = {f"{kind}/{name}": value for name, value in row.items()} | {"epoch": epoch}
        if waits:
            self.waiting |= values
        else:
            self._log(values)

    def add_steps(self, rows: Sequence[Row]) -> None:
        """Log the rows of an epoch's steps, and then the row that waits for them."""
        for row in rows:
            self.step = int(row["step"])
            self._log({f"steps/{name}": value for name, value in row.items() if name != "step"})
        if self.waiting:
            self._log(self.waiting)
            self.waiting = {}

    def add_pictures(self, pictures: Pictures) -> None:
        """Log pictures at the present step."""
        for name in list(self.open):
            self._each(partial(_log_pictures, name, pictures, self.step), only=name)

    def _log(self, values: Row) -> None:
        for kind in list(self.open):
            name = _of_few_signs if kind == "mlflow" else str
            row = {name(key): value for key, value in values.items()}
            self._each(partial(_log_row, row, self.step), only=kind)

    def close(self) -> None:
        """End the run in all trackers."""
        self._each(lambda tracker: tracker.finish())
        self.open = {}

    def _each(self, act: Callable[[Any], Any], *, only: str | None = None) -> None:
        """Let every tracker, or only one, do something. One that fails is left out from now on."""
        for name in [only] if only is not None else list(self.open):
            if name not in self.open:
                continue
            try:
                act(self.open[name])
            except Exception as error:  # of anybody's service, which a training does not depend on
                del self.open[name]
                print(f"{name} gets no more figures ({reason_of(error)}); the training goes on")


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Nested options by their full names, with values that every tracker takes.

    >>> _flat({"seed": 1, "model": {"visual-layers": [-1, -4]}})
    [('seed', 1), ('model.visual-layers', '[-1, -4]')]
    """
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{above}{name}.")
        else:
            simple = value is None or isinstance(value, bool | int | float | str)
            found.append((f"{above}{name}", value if simple else str(value)))
    return found
