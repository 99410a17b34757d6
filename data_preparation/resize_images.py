"""Copy a dataset with its images already padded, resized and cropped for one model."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from gatedcir.config import (
    ALL_CATEGORIES,
    Categories,
    DataConfig,
    DataPath,
    InDataset,
    NewFolder,
    NumWorkers,
    SkipUnreadable,
    TransformConfig,
)
from gatedcir.data.load import Choice, load_splits
from gatedcir.data.readable import refuse_unreadable
from gatedcir.data.resized import copy_annotations, copy_images, write_note
from gatedcir.data.transforms import make_transform
from gatedcir.errors import UserError, check_new_folder, run_command
from gatedcir.parsing import parse

SPLITS = {"CIRR": ("train", "val", "test1"), "FashionIQ": ("train", "val", "test")}


@dataclass(frozen=True)
class Options:
    """What to copy where."""

    dataset: InDataset
    output: NewFolder
    data_path: DataPath = None
    image_size: int = 224
    """Side of the model's input in pixels."""
    fashioniq_categories: Categories = ALL_CATEGORIES
    skip_unreadable: SkipUnreadable = False
    num_workers: NumWorkers = DataConfig.num_workers
    transform: Annotated[TransformConfig, tyro.conf.arg(name="")] = field(
        default_factory=TransformConfig
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the copy; images that the annotations name and that are missing are left out.

    Images that cannot be read end it, or are left out with --skip-unreadable.
    """
    options = parse(Options, argv, description="Copy a dataset with its images resized.")
    source = DataConfig(options.dataset, options.data_path).folder
    check_new_folder(options.output, "--output")
    output = options.output.resolve()
    transform = make_transform(
        options.transform.transform,
        size=options.image_size,
        target_ratio=options.transform.target_ratio,
        draft=options.transform.draft,
    )
    files: set[Path] = set()
    for splits in load_splits(
        options.dataset,
        source,
        SPLITS[options.dataset],
        choice=Choice(categories=options.fashioniq_categories),
        skip_missing=True,
        skip_unreadable=options.skip_unreadable,
        num_workers=options.num_workers,
    ):
        for split in splits:
            files |= set(split.paths.values())
    unfinished = output.with_name(output.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        copy_annotations(source, unfinished)
        copies = copy_images(
            source, unfinished, sorted(files), transform, num_workers=options.num_workers
        )
        try:
            size = sum(f.stat().st_size for f in tqdm(copies, "images", len(files), unit="img"))
        except UserError:
            refuse_unreadable(files, num_workers=options.num_workers)
            raise
        write_note(unfinished, transform)
        unfinished.replace(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    print(f"{output}: {len(files)} images of {options.image_size} px, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(main)
