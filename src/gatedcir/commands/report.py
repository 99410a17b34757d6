"""Show runs as one page: what was run, how it went, what is found, and what is not."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from gatedcir.commands.evaluate import DataOfRun, check_targets
from gatedcir.commands.main import COMMANDS
from gatedcir.commands.of_run import MORE, data_of
from gatedcir.commands.score import with_flag
from gatedcir.errors import UserError
from gatedcir.options.config import Device, MeasuredSplit
from gatedcir.options.parsing import parse
from gatedcir.outputs import check_file_to_write

if TYPE_CHECKING:
    from gatedcir.benchmarks.base import Benchmark
    from gatedcir.report.findings import Findings
    from gatedcir.report.runs import RunFiles

_FORM = "RUN [RUN ...] is short for --runs RUN [RUN ...]."
NO_DATA = DataOfRun()


@dataclass(frozen=True)
class Options:
    """The runs, and where the page goes."""

    runs: tuple[Path, ...]
    """Folders of runs. Those without weights are shown by their tables alone."""
    output: Path
    """HTML file to write. It holds all its pictures."""
    data: Annotated[DataOfRun, tyro.conf.arg(name="")] = NO_DATA
    split: MeasuredSplit = "val"
    num: int = 6
    """Queries of each kind to show: best, near misses, worst, random. 0: none."""
    evaluate: bool = True
    """Evaluate runs that kept weights. --no-evaluate shows their tables alone, in a second."""
    device: Device = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page and print its place."""
    description = f"{COMMANDS['report']} {_FORM} {MORE}"
    words = with_flag(argv, "--runs")
    options = parse(Options, words, description=description)
    check_file_to_write(options.output, "--output", "page")
    if options.num < 0:
        raise UserError(f"--num {options.num} is out of range; give 0 or more.")
    write(options, words=words, description=description)
    print(f"report: {options.output}")


def write(
    options: Options, *, words: Sequence[str] = (), description: str = "", title: str = ""
) -> None:
    """Write the page that the options ask for.

    Args:
        options: which runs, and where to.
        words: the command line that they were read from, which wins over what a run says.
        description: of the command, for its help.
        title: of the page. Without it: the names of the runs.
    """
    from gatedcir.options.config import Config, DataConfig
    from gatedcir.options.parsing import to_dict
    from gatedcir.report.blocks import write_page
    from gatedcir.report.runs import read_runs
    from gatedcir.report.sections import report_sections

    runs = read_runs(options.runs)
    _check_data(options, runs)
    found: dict[str, Findings] = {}
    measured: Benchmark | None = None
    for run in runs:
        if options.evaluate and run.keeps_weights:
            found[run.name], measured = _evaluate(options, run, words, description)
    if measured is None:
        from gatedcir.benchmarks.registry import benchmark

        measured = benchmark(str(options.data.dataset or runs[0].config["dataset"]))
    defaults = to_dict(Config(DataConfig(str(runs[0].config.get("dataset")))))
    sections = report_sections(runs, found, measured, defaults)
    name = title or f"Report of {', '.join(run.name for run in runs)}"
    write_page(options.output, name, sections, intro=f"{measured.name}, split {options.split}.")


def _check_data(options: Options, runs: "Sequence[RunFiles]") -> None:
    """UserError if the runs have metrics of different data sets."""
    from gatedcir.benchmarks.registry import benchmark

    if options.evaluate and options.data.dataset is not None:
        return
    seen: dict[str, tuple[str, str]] = {}  # headline -> run, data set
    for run in runs:
        dataset = str(run.config.get("dataset"))
        with suppress(UserError):  # a data set of one's own that is gone
            seen.setdefault(benchmark(dataset).headline, (run.name, dataset))
    if len(seen) > 1:
        (first, data), (other, more) = list(seen.values())[:2]
        way = "give --dataset to evaluate all of them on one, or " * options.evaluate
        raise UserError(
            f"{first} was trained on {data} and {other} on {more}, which have different metrics; "
            f"{way}write a report for each."
        )


def _evaluate(
    options: Options, run: "RunFiles", words: Sequence[str], description: str
) -> "tuple[Findings, Benchmark]":
    """Evaluate one run on its own data, or on those that the flags name."""
    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.data.changes import known_changes
    from gatedcir.models.weights.sources import load
    from gatedcir.report.findings import find

    weights = load(str(run.path))
    if options.data.dataset is None:
        below = data_of(weights, run.path, Options)
        if words:
            options = parse(Options, words, description=description, below=below)
        else:
            given = {name.replace("-", "_"): value for name, value in below.items()}
            options = replace(options, data=replace(options.data, **given))
    evaluator, splits = open_evaluator(
        run.path, options.data, options.split, device=options.device, found=weights
    )
    check_targets(splits)
    known = known_changes(options.data.folder, [split.name for split in splits])
    print(f"evaluating {run.name}")
    return find(evaluator, splits, known, num=options.num), evaluator.benchmark
