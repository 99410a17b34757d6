"""Write a dataset as files of triplets, which all commands read as your own."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gatedcir.commands.main import COMMANDS
from gatedcir.errors import check_new_folder
from gatedcir.files import whole_folder
from gatedcir.options.config import (
    ALL_CATEGORIES,
    Categories,
    DataConfig,
    DataPath,
    FashionIQGallery,
    InDataset,
    NewFolder,
    Seldom,
)
from gatedcir.options.parsing import parse


@dataclass(frozen=True)
class Options:
    """What to write where."""

    dataset: InDataset
    output: NewFolder
    data_path: DataPath = None
    splits: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
    """The splits to write."""
    fashioniq_protocol: Seldom[FashionIQGallery] = DataConfig.fashioniq_protocol
    fashioniq_categories: Categories = ALL_CATEGORIES


def main(argv: Sequence[str] | None = None) -> None:
    """Write the files and print what they hold. Images stay where they are."""
    options = parse(Options, argv, description=COMMANDS["convert"])
    from gatedcir.benchmarks.base import Choice
    from gatedcir.benchmarks.load import read_queries
    from gatedcir.benchmarks.own_writing import files_of
    from gatedcir.data.changes import MARK

    check_new_folder(options.output, "--output")
    data = DataConfig(options.dataset, options.data_path)
    choice = Choice(options.fashioniq_protocol, options.fashioniq_categories)
    written = {
        split: read_queries(options.dataset, data.folder, split, choice=choice, images=True)
        for split in options.splits
    }
    with whole_folder(options.output) as folder:
        for split, parts in written.items():
            for name, text in files_of(parts, split, options.output).items():
                (folder / name).write_text(text, encoding="utf-8")
        if (data.folder / MARK).is_file():
            shutil.copyfile(data.folder / MARK, folder / MARK)
    for split, parts in written.items():
        queries = sum(len(part.triplets) for part in parts)
        missing = sum(not path.is_file() for part in parts for path in part.paths.values())
        note = f", {missing} images are not there yet" if missing else ""
        print(f"{options.output / f'{split}.jsonl'}: {queries} queries{note}")
