"""Files of answers that are there: read for a dataset's split, and checked for its test server."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatedcir.options.config import (
    ALL_CATEGORIES,
    AnsweredSplit,
    Categories,
    DataConfig,
    DataPath,
    InDataset,
)
from gatedcir.options.parsing import parse

if TYPE_CHECKING:
    from gatedcir.benchmarks.answers import Listed


@dataclass(frozen=True)
class Check:
    """The files to check, and the data that they answer."""

    check: tuple[Path, ...]
    """Files for a test server. They are only checked: the queries, the numbers of names, the names,
    and the size."""
    dataset: InDataset = "CIRR"
    data_path: DataPath = None
    split: AnsweredSplit = "test"
    fashioniq_categories: Categories = ALL_CATEGORIES


def check(argv: Sequence[str]) -> None:
    """Print that files keep the rules of a dataset's test server."""
    options = parse(Check, argv, description="Check files for a test server, without the server.")
    from gatedcir.benchmarks.answers import check_rules, check_size
    from gatedcir.benchmarks.registry import benchmark

    rules = benchmark(options.dataset).rules
    answers = read(options.check, options)
    check_rules(answers, rules)
    for file in _files(options.check):
        check_size(file, rules)
    for each in answers:
        known = (
            "names are in the gallery" if each.split.gallery else "the gallery is not known here"
        )
        print(f"{each.split.name}: {len(each.split.triplets)} queries, all in order; {known}")


def read(files: Sequence[Path], options: Any) -> "list[Listed]":
    """The answers of files to a split that options name.

    Raises:
        UserError: as `read_queries` and `read_answers` do.
    """
    from gatedcir.benchmarks.answers import read_answers
    from gatedcir.benchmarks.base import Choice
    from gatedcir.benchmarks.load import read_queries
    from gatedcir.benchmarks.registry import benchmark

    folder = DataConfig(options.dataset, options.data_path).folder
    protocol = getattr(options, "fashioniq_protocol", DataConfig.fashioniq_protocol)
    choice = Choice(protocol, options.fashioniq_categories)
    splits = read_queries(options.dataset, folder, options.split, choice=choice)
    return read_answers(_files(files), splits, benchmark(options.dataset).read_answers)


def _files(given: Sequence[Path]) -> list[Path]:
    """The files, and all JSON files of folders among them."""
    return [f for one in given for f in (sorted(one.glob("*.json")) if one.is_dir() else [one])]
