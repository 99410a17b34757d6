"""Write the files for a dataset's test server: parse, open, rank, check, write."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gatedcir.commands.judge import say_without_judge
from gatedcir.commands.main import COMMANDS
from gatedcir.commands.of_run import MORE, OfRun, PathOfRun, data_of
from gatedcir.errors import UserError, check_folder_to_write
from gatedcir.options.config import (
    ALL_CATEGORIES,
    DATASETS,
    OLD_OUTPUT,
    AnsweredSplit,
    Categories,
    DataConfig,
    Device,
    Limit,
    ModelPath,
    NumWorkers,
    SkipUnreadable,
)
from gatedcir.options.marks import MAY_BE_PATH, OF_RUN
from gatedcir.options.parsing import parse
from gatedcir.options.recipe_config import RecipeConfig, Rerank, RerankedBy

_Submitted = Annotated[
    str | None,
    OF_RUN,
    DATASETS,
    MAY_BE_PATH,
    tyro.conf.arg(
        metavar=DATASETS.metavar,
        help="Dataset whose server gets the files. One of your own needs a Benchmark with a "
        "`submission`. Without it: the dataset of the run, or CIRR for weights of no run.",
    ),
]


@dataclass(frozen=True)
class Options:
    """Which model, and where its answers go."""

    model_path: ModelPath
    output: Annotated[Path, OLD_OUTPUT]
    """Folder for the files: CIRR's two, or one for each of FashionIQ's categories."""
    dataset: _Submitted = None
    data_path: PathOfRun = None
    split: AnsweredSplit = "test"
    fashioniq_categories: OfRun[Categories] = ALL_CATEGORIES
    skip_unreadable: OfRun[SkipUnreadable] = False
    limit: Limit = None
    num_workers: NumWorkers = DataConfig.num_workers
    rerank: Rerank = RecipeConfig.rerank
    reranker: RerankedBy = None
    device: Device = "auto"
    check: tuple[Path, ...] = ()
    """Only check these files, without the server. No model and no --output is then needed."""


def main(argv: Sequence[str] | None = None) -> None:
    """Rank a split, and write the server's files, or check files that are there."""
    words = sys.argv[1:] if argv is None else argv
    if any(word.partition("=")[0] == "--check" for word in words) and "--help" not in words:
        from gatedcir.commands.answer_files import check

        check(words)
        return
    description = f"{COMMANDS['submit']} {MORE}"
    options = parse(Options, argv, description=description)
    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.benchmarks.registry import benchmark
    from gatedcir.models.weights.sources import load
    from gatedcir.run_folder.claim import check_free

    check_folder_to_write(options.output, "--output")
    check_free(options.output, "--output")
    found = None
    if options.dataset is None:
        found = load(str(options.model_path))
        trained = found.run is not None and found.run.epoch > 0
        below = data_of(found, options.model_path, Options) if trained else {"dataset": "CIRR"}
        options = parse(Options, argv, description=description, below=below)
    assert options.dataset is not None
    data = DataConfig(
        options.dataset,
        options.data_path,
        fashioniq_categories=options.fashioniq_categories,
        skip_unreadable=options.skip_unreadable,
        num_workers=options.num_workers,
        limit=options.limit,
    )
    submission = benchmark(options.dataset).submission
    if submission is None:
        raise UserError(f"{options.dataset} has no test server that is known; use evaluate.")
    evaluator, splits = open_evaluator(
        options.model_path,
        data,
        options.split,
        device=options.device,
        found=found,
        rerank=options.rerank,
        reranker=options.reranker,
    )
    say_without_judge(options.rerank, argv, judges=evaluator.judges)
    for split in splits:
        print(f"{split.name}: {split.protocol}")
        if split.skipped:
            raise UserError(
                f"the server wants all queries of {split.name}, and {split.skipped} of them need "
                "an image that cannot be read; replace its file."
            )
    rankings = [evaluator.order(split, *evaluator.encode(split)) for split in splits]
    for file in submission(options.output, options.split, rankings):
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
