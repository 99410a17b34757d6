"""Write the files for a dataset's test server: parse, open, rank, check, write."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from gatedcir.commands.main import COMMANDS
from gatedcir.errors import UserError, check_folder_to_write
from gatedcir.options.config import (
    ALL_CATEGORIES,
    OLD_OUTPUT,
    Categories,
    DataConfig,
    DataPath,
    Device,
    InDataset,
    ModelPath,
    NumWorkers,
    SkipUnreadable,
)
from gatedcir.options.parsing import parse


@dataclass(frozen=True)
class Options:
    """Which model, and where its answers go."""

    model_path: ModelPath
    output: Annotated[Path, OLD_OUTPUT]
    """Folder for the files: CIRR's two, or one for each of FashionIQ's categories."""
    dataset: InDataset = "CIRR"
    data_path: DataPath = None
    split: Literal["test", "val"] = "test"
    """The split whose queries are answered. CIRR's test split is test1."""
    fashioniq_categories: Categories = ALL_CATEGORIES
    skip_unreadable: SkipUnreadable = False
    num_workers: NumWorkers = DataConfig.num_workers
    device: Device = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    """Rank a split, and write the server's files."""
    options = parse(Options, argv, description=COMMANDS["submit"])
    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.benchmarks.registry import benchmark
    from gatedcir.evaluation.ranking import rank

    check_folder_to_write(options.output, "--output")
    data = DataConfig(
        options.dataset,
        options.data_path,
        fashioniq_categories=options.fashioniq_categories,
        skip_unreadable=options.skip_unreadable,
        num_workers=options.num_workers,
    )
    submission = benchmark(options.dataset).submission
    if submission is None:
        raise UserError(f"{options.dataset} has no test server that is known; use evaluate.")
    evaluator, splits = open_evaluator(
        options.model_path, data, options.split, device=options.device
    )
    for split in splits:
        print(f"{split.name}: {split.protocol}")
        if split.skipped:
            raise UserError(
                f"the server wants all queries of {split.name}, and {split.skipped} of them need "
                "an image that cannot be read; replace its file."
            )
    rankings = [rank(split, *evaluator.encode(split)) for split in splits]
    for file in submission(options.output, options.split, rankings):
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
