"""Evaluate a checkpoint: parse, open, validate, report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatedcir.errors import check_file_to_write, run_command
from gatedcir.options.config import FlatData, ModelPath
from gatedcir.options.parsing import parse


@dataclass(frozen=True)
class Options:
    """What to evaluate on what."""

    data: FlatData
    model_path: ModelPath
    json: Path | None = None
    """File to write metrics and protocol to."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report of a checkpoint on the validation split."""
    options = parse(Options, argv, description="Evaluate a checkpoint on the validation split.")
    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.evaluation.evaluator import validate
    from gatedcir.evaluation.report import format_report
    from gatedcir.files import write_json
    from gatedcir.models.weights.sources import locate

    if options.json is not None:
        check_file_to_write(options.json, "--json")
    evaluator, splits = open_evaluator(options.model_path, options.data, "val")
    metrics = validate(evaluator, splits)
    source = locate(str(options.model_path))
    print(format_report(metrics, splits, title=str(source)))
    if options.json is not None:
        protocol = {split.name: split.protocol for split in splits}
        content = {"checkpoint": str(source), "trained_on": evaluator.trained_on}
        write_json(options.json, {**content, "protocol": protocol, "metrics": metrics})


if __name__ == "__main__":
    run_command(main)
