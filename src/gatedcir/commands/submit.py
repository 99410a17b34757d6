"""Write the files that a dataset's test server takes: parse, open, rank, check, write."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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

if TYPE_CHECKING:
    from gatedcir.evaluation.ranking import Ranking


@dataclass(frozen=True)
class Options:
    """Which model, and where its answers go."""

    model_path: ModelPath
    output: Annotated[Path, OLD_OUTPUT]
    """Folder for the files: CIRR's two, or one for each of FashionIQ's categories."""
    dataset: InDataset = "CIRR"
    data_path: DataPath = None
    split: Literal["test", "val"] = "test"
    """Whose queries are answered; CIRR's test split is test1."""
    fashioniq_categories: Categories = ALL_CATEGORIES
    skip_unreadable: SkipUnreadable = False
    num_workers: NumWorkers = DataConfig.num_workers
    device: Device = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    """Rank a split, and write the server's files."""
    options = parse(Options, argv, description=COMMANDS["submit"])
    from gatedcir.assemble.data import split_name
    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.evaluation.ranking import rank

    check_folder_to_write(options.output, "--output")
    data = DataConfig(
        options.dataset,
        options.data_path,
        fashioniq_categories=options.fashioniq_categories,
        skip_unreadable=options.skip_unreadable,
        num_workers=options.num_workers,
    )
    name = split_name(options.dataset, options.split)
    evaluator, splits = open_evaluator(options.model_path, data, name, device=options.device)
    for split in splits:
        print(f"{split.name}: {split.protocol}")
        if split.skipped:
            raise UserError(
                f"the server wants all queries of {split.name}, and {split.skipped} of them need "
                "an image that cannot be read; replace its file."
            )
    rankings = [rank(split, *evaluator.encode(split)) for split in splits]
    write = {"CIRR": _write_cirr, "FashionIQ": _write_fashioniq}[options.dataset]
    for file in write(options.output, options.split, rankings):
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")


def _write_cirr(folder: Path, split: str, rankings: list["Ranking"]) -> list[Path]:
    from gatedcir.benchmarks.submission import write_submission

    [ranking] = rankings
    triplets = ranking.split.triplets
    return write_submission(
        folder,
        pair_ids=[triplet.query_id for triplet in triplets],
        references=[triplet.reference for triplet in triplets],
        retrieved=[ranking.names(number) for number in range(len(triplets))],
        group_retrieved=[ranking.group_names(number) for number in range(len(triplets))],
    )


def _write_fashioniq(folder: Path, split: str, rankings: list["Ranking"]) -> list[Path]:
    from gatedcir.benchmarks.submission import write_rankings

    return write_rankings(
        folder,
        split,
        {
            str(ranking.split.category): [
                {
                    "candidate": triplet.reference,
                    "captions": triplet.captions,
                    "ranking": ranking.names(number),
                }
                for number, triplet in enumerate(ranking.split.triplets)
            ]
            for ranking in rankings
        },
    )
