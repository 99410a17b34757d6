"""Write a dataset as files of triplets, which all commands read as your own."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gatedcir.commands.main import COMMANDS
from gatedcir.errors import UserError, check_new_folder
from gatedcir.files import whole_folder
from gatedcir.options.config import (
    ALL_CATEGORIES,
    Categories,
    DataConfig,
    DataPath,
    FashionIQGallery,
    MaybeDataset,
    NewFolder,
    Seldom,
)
from gatedcir.options.parsing import parse


@dataclass(frozen=True)
class Options:
    """What to write where."""

    output: NewFolder
    dataset: MaybeDataset = None
    """Dataset in its published layout, a file or folder of your own triplets, or a reader of your
    own by a path."""
    from_datasets: str | None = None
    """Hugging Face datasets instead: a folder of save_to_disk, a .parquet file, or a name of the
    hub. Its columns are the keys of your own triplets."""
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
    if (options.dataset is None) == (options.from_datasets is None):
        raise UserError("give --dataset, or --from-datasets PLACE.")
    if options.from_datasets is not None:
        _convert(options.from_datasets, options.output)
        return
    assert options.dataset is not None
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


def _convert(place: str, output: Path) -> None:
    from gatedcir.benchmarks.from_datasets import write_splits

    with whole_folder(output) as folder:
        lines = list(write_splits(place, folder, output=output))
    print(*(f"{output}: {line}" for line in lines), sep="\n")
