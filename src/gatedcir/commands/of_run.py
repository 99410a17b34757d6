"""The data that a model's run was trained on, for commands that need no --dataset then."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from gatedcir.errors import UserError
from gatedcir.options.command_line import options_of
from gatedcir.options.config import DATASETS
from gatedcir.options.marks import MAY_BE_PATH, OF_RUN

if TYPE_CHECKING:
    from gatedcir.models.weights.sources import Pretrained

Value = TypeVar("Value")
OfRun = Annotated[Value, OF_RUN]
MORE = "Without --dataset, the model's run says on which data, and how these are read."
InRun = Annotated[
    str | None,
    OF_RUN,
    DATASETS,
    MAY_BE_PATH,
    tyro.conf.arg(
        metavar=DATASETS.metavar,
        help="Dataset in its published layout. Without it: the dataset of the run.",
    ),
]
PathOfRun = Annotated[
    Path | None,
    OF_RUN,
    tyro.conf.arg(
        help="The dataset's folder. Without it: that of the run, or for a named dataset its usual "
        "one, such as ./cirr_dataset.",
    ),
]


def data_of(found: "Pretrained", path: Path, options: type) -> dict[str, Any]:
    """The data options that a run was trained with, as its config has them.

    Args:
        found: the weights.
        path: where they are.
        options: the command's, of which those with the mark `OF_RUN` are given.

    Raises:
        UserError: the weights are not of a run that was trained.
    """
    if found.run is None or found.run.epoch == 0:
        raise UserError(f"{path} was trained on no dataset here; give --dataset NAME.")
    renamed = {"skip-missing": "skip-unreadable"}  # as release 0.1 called it
    config = {renamed.get(name, name): value for name, value in found.run.config.items()}
    names = [one.flag.removeprefix("--") for one in options_of(options) if one.of_run]
    return {name: config[name] for name in names if config.get(name) is not None}
