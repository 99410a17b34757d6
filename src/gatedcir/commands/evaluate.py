"""Evaluate a checkpoint: parse, open, validate, report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gatedcir.commands.main import COMMANDS
from gatedcir.commands.of_run import MORE, InRun, data_of
from gatedcir.errors import UserError, check_file_to_write
from gatedcir.options.config import DataConfig, Device, ModelPath
from gatedcir.options.parsing import parse


@dataclass(frozen=True)
class DataOfRun(DataConfig):
    """A dataset. If no flag names it, the model's run does."""

    dataset: InRun = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Options:
    """The model to evaluate, and the data."""

    model_path: ModelPath
    data: Annotated[DataOfRun, tyro.conf.arg(name="")] = DataOfRun()
    split: Literal["val", "train", "test"] = "val"
    """The dataset's split. Its targets must be published."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=("--json",))] = None
    """File to write metrics and protocol to."""
    device: Device = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report of a checkpoint on a split."""
    description = f"{COMMANDS['evaluate']} {MORE}"
    options = parse(Options, argv, description=description)
    if options.output is not None:
        check_file_to_write(options.output, "--output")
    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.evaluation.evaluator import validate
    from gatedcir.evaluation.report import format_report
    from gatedcir.files import write_json
    from gatedcir.models.weights.sources import load, locate

    found = None
    if options.data.dataset is None:
        found = load(str(options.model_path))
        below = data_of(found, options.model_path, Options)
        options = parse(Options, argv, description=description, below=below)
    assert options.data.dataset is not None
    evaluator, splits = open_evaluator(
        options.model_path, options.data, options.split, device=options.device, found=found
    )
    for split in splits:
        if not all(triplet.targets for triplet in split.triplets):
            raise UserError(
                f"{split.name} has no published targets to compare with; gatedcir submit writes "
                "the answers for its server."
            )
    metrics = validate(evaluator, splits)
    source = locate(str(options.model_path))
    print(format_report(metrics, splits, title=str(source)))
    if options.output is not None:
        protocol = {split.name: split.protocol for split in splits}
        content = {"checkpoint": str(source), "trained_on": evaluator.trained_on}
        write_json(options.output, {**content, "protocol": protocol, "metrics": metrics})
