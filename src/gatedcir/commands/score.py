"""Metrics of anybody's predictions, whatever model made them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gatedcir.commands.answer_files import read
from gatedcir.commands.main import COMMANDS
from gatedcir.options.config import (
    ALL_CATEGORIES,
    Categories,
    DataConfig,
    DataPath,
    FashionIQGallery,
    InDataset,
    MeasuredSplit,
    Seldom,
)
from gatedcir.options.parsing import parse
from gatedcir.outputs import check_file_to_write

_FORM = "FILE.json is short for --predictions FILE.json. No image and no model is needed."


@dataclass(frozen=True)
class Options:
    """The predictions, and the data that they answer."""

    predictions: tuple[Path, ...]
    """JSON files or a folder of them: {"query id": ["best image", ...]}, or the form of a test
    server. Several (CIRR's two, FashionIQ's categories) are measured together."""
    dataset: InDataset
    data_path: DataPath = None
    split: MeasuredSplit = "val"
    fashioniq_protocol: Seldom[FashionIQGallery] = DataConfig.fashioniq_protocol
    fashioniq_categories: Categories = ALL_CATEGORIES
    output: Annotated[Path | None, tyro.conf.arg(aliases=("--json",))] = None
    """JSON file to write metrics and protocol to, in percent. Without it: they are only printed."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print all metrics of the predictions."""
    options = parse(Options, with_flag(argv), description=f"{COMMANDS['score']} {_FORM}")
    if options.output is not None:
        check_file_to_write(options.output, "--output", "figures")
    from gatedcir.benchmarks.base import CUTOFFS
    from gatedcir.benchmarks.registry import benchmark
    from gatedcir.evaluation.report import format_report
    from gatedcir.files import write_json

    answers = read(options.predictions, options)
    metrics = benchmark(options.dataset).score(answers)
    splits = [each.split for each in answers]
    print(format_report(metrics, splits, title=", ".join(map(str, options.predictions))))
    for each in answers:
        others = len(each.split.gallery) - 1 if each.split.gallery else max(CUTOFFS)
        if each.given.lists and each.shortest < min(max(CUTOFFS), others):
            print(
                f"{each.split.name}: a list has only {each.shortest} images, and what it lacks "
                "counts as not found"
            )
    if options.output is not None:
        protocol = {split.name: split.protocol for split in splits}
        write_json(options.output, {**metrics, "protocol": protocol})


def with_flag(argv: Sequence[str] | None, flag: str = "--predictions") -> list[str]:
    """The words of a command line, whose first ones may be files without their flag."""
    words = list(sys.argv[1:] if argv is None else argv)
    return words if not words or words[0].startswith("-") else [flag, *words]
