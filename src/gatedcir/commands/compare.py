"""Compare two models query by query: differences with intervals, and where they come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gatedcir.commands.evaluate import DataOfRun, check_targets
from gatedcir.commands.main import COMMANDS
from gatedcir.commands.of_run import MORE, data_of
from gatedcir.commands.report import NO_DATA
from gatedcir.commands.score import with_flag
from gatedcir.errors import UserError
from gatedcir.options.command_line import split
from gatedcir.options.config import Device, MeasuredSplit
from gatedcir.options.parsing import parse
from gatedcir.outputs import check_files_to_write

_FORM = "A B is short for --models A B."


@dataclass(frozen=True)
class Options:
    """The two models, and the data."""

    models: tuple[Path, Path]
    """Two runs' folders, or other weights that evaluation takes. Without --dataset, the data are
    those of A's run, or of B's if A was trained on none."""
    data: Annotated[DataOfRun, tyro.conf.arg(name="")] = NO_DATA
    split: MeasuredSplit = "val"
    num: int = 20
    """Queries to show: those whose ranks differ most."""
    json: Path | None = None
    """JSON file to write all figures to."""
    html: Path | None = None
    """HTML page to write, with the queries that differ most."""
    device: Device = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of differences, and write what is asked for."""
    description = f"{COMMANDS['compare']} {_FORM} {MORE}"
    words = with_flag(argv, "--models")
    for given in split(words):
        if given.flag == "--models" and len(given.values) != 2:
            raise UserError(f"compare takes two models and not {len(given.values)}; give A B.")
    options = parse(Options, words, description=description)
    check_files_to_write((("--json", options.json, "figures"), ("--html", options.html, "page")))
    if options.num < 0:
        raise UserError(f"--num {options.num} is out of range; give 0 or more.")
    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.evaluation.evaluator import rank_each
    from gatedcir.files import write_json
    from gatedcir.models.weights.sources import load
    from gatedcir.report.blocks import write_page
    from gatedcir.report.comparison import compare, comparison_sections, format_comparison

    first, second = (load(str(path)) for path in options.models)
    if options.data.dataset is None:
        trained = first.run is not None and first.run.epoch > 0
        which = 0 if trained else 1
        below = data_of((first, second)[which], options.models[which], Options)
        options = parse(Options, words, description=description, below=below)
    rankings, trained_on = [], []
    for path, found in zip(options.models, (first, second), strict=True):
        evaluator, splits = open_evaluator(
            path, options.data, options.split, device=options.device, found=found
        )
        check_targets(splits)
        trained_on.append(evaluator.trained_on)
        rankings += rank_each(evaluator, splits, [evaluator.encode_query])
    names = (str(options.models[0]), str(options.models[1]))
    benchmark = evaluator.benchmark
    found_all = compare(
        benchmark,
        names,
        (rankings[0], rankings[1]),
        most=options.num,
        trained_on=(trained_on[0], trained_on[1]),
    )
    print(format_comparison(found_all))
    if options.json is not None:
        write_json(options.json, found_all.content)
    if options.html is not None:
        sections = comparison_sections(benchmark, found_all)
        write_page(options.html, f"{names[1]} against {names[0]}", sections)
