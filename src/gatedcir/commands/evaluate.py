"""Evaluate a checkpoint: parse, open, validate, report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from gatedcir.commands.judge import say_without_judge
from gatedcir.commands.main import COMMANDS
from gatedcir.commands.of_run import MORE, InRun, OfRun, PathOfRun, data_of
from gatedcir.errors import UserError
from gatedcir.options.config import (
    ALL_CATEGORIES,
    Categories,
    DataConfig,
    Device,
    FashionIQGallery,
    Gallery,
    MeasuredSplit,
    ModelPath,
    Seldom,
    SkipUnreadable,
)
from gatedcir.options.parsing import parse
from gatedcir.options.recipe_config import RecipeConfig, Rerank, RerankedBy
from gatedcir.outputs import check_files_to_write

if TYPE_CHECKING:
    from gatedcir.data.triplets import Split
    from gatedcir.evaluation.evaluator import Evaluator
    from gatedcir.evaluation.examined import Examined


@dataclass(frozen=True)
class DataOfRun(DataConfig):
    """A dataset. If no flag names it, the model's run does."""

    dataset: InRun = None  # type: ignore[assignment]
    data_path: PathOfRun = None
    fashioniq_protocol: Seldom[OfRun[FashionIQGallery]] = DataConfig.fashioniq_protocol
    fashioniq_categories: OfRun[Categories] = ALL_CATEGORIES
    gallery: Seldom[OfRun[Gallery]] = "split"
    skip_unreadable: OfRun[SkipUnreadable] = False


@dataclass(frozen=True)
class Options:
    """The model to evaluate, and the data."""

    model_path: ModelPath
    data: Annotated[DataOfRun, tyro.conf.arg(name="")] = DataOfRun()
    split: MeasuredSplit = "val"
    output: Annotated[Path | None, tyro.conf.arg(aliases=("--json",))] = None
    """JSON file to write metrics and protocol to. Without it: they are only printed."""
    composition: bool = True
    """Rank by the image alone and by the text alone too, and print what the model adds."""
    ranks: Path | None = None
    """CSV or Parquet file to write the result of every query to: rank, rank in its group, score,
    target, first 50 images."""
    trec: Path | None = None
    """TREC run file to write, and next to it the answers as FILE.qrels."""
    rerank: Rerank = RecipeConfig.rerank
    reranker: RerankedBy = None
    device: Device = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report of a checkpoint on a split."""
    description = f"{COMMANDS['evaluate']} {MORE}"
    options = parse(Options, argv, description=description)
    _check_files(options)
    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.evaluation.examined import examine
    from gatedcir.evaluation.query_files import rows_of, write_table, write_trec
    from gatedcir.files import write_json
    from gatedcir.models.weights.sources import load, locate

    found = None
    if options.data.dataset is None:
        found = load(str(options.model_path))
        below = data_of(found, options.model_path, Options)
        options = parse(Options, argv, description=description, below=below)
    assert options.data.dataset is not None
    evaluator, splits = open_evaluator(
        options.model_path,
        options.data,
        options.split,
        device=options.device,
        found=found,
        rerank=options.rerank,
        reranker=options.reranker,
    )
    say_without_judge(options.rerank, argv, judges=evaluator.judges)
    check_targets(splits)
    examined = examine(evaluator, splits, composition=options.composition)
    source = str(locate(str(options.model_path)))
    _print(evaluator, examined, title=source)
    if options.output is not None:
        about = {"checkpoint": source, "trained_on": evaluator.trained_on}
        write_json(options.output, {**about, **examined.content})
    if options.ranks is not None:
        write_table(options.ranks, rows_of(evaluator.benchmark, examined.rankings))
    if options.trec is not None:
        write_trec(options.trec, examined.rankings, tag=evaluator.benchmark.name)


def check_targets(splits: "Sequence[Split]") -> None:
    """UserError if a split publishes no targets."""
    for split in splits:
        if not all(triplet.targets for triplet in split.triplets):
            raise UserError(
                f"{split.name} has no published targets to compare with; gatedcir submit writes "
                "the answers for its server."
            )


def _check_files(options: Options) -> None:
    files: list[tuple[str, Path | None, str]] = [("--output", options.output, "figures")]
    if options.ranks is not None:
        from gatedcir.evaluation.query_files import check_table

        check_table(options.ranks, "--ranks")
        files.append(("--ranks", options.ranks, f"ranks{options.ranks.suffix}"))
    if options.trec is not None:
        from gatedcir.evaluation.query_files import answers_of

        answers = answers_of(options.trec)
        files += [("--trec", options.trec, "trec"), ("--trec", answers, "qrels")]
    check_files_to_write(files)


def _print(evaluator: "Evaluator", examined: "Examined", *, title: str) -> None:
    import torch

    from gatedcir.evaluation.report import format_composition, format_report, format_scales
    from gatedcir.evaluation.reranking import format_gain
    from gatedcir.evaluation.scale_times import time_scales

    metrics, splits = examined.measured.metrics, [one.split for one in examined.rankings]
    print(format_report(metrics, splits, title=title, intervals=examined.intervals))
    if examined.gain is not None:
        print(format_gain(examined.gain))
    if evaluator.needed:
        model = evaluator.model
        lengths = [model.level_shape(scale)[0] for scale in model.scales]
        print(format_scales(torch.cat(evaluator.needed), scales=model.scales, lengths=lengths))
        if times := time_scales(evaluator, splits):
            print(times)
    if examined.without_gate is not None:
        headline = evaluator.benchmark.headline
        print(f"recall without the gate: {examined.without_gate[headline]:.2f} ({headline})")
    if examined.composition is not None:
        whole = "model" if examined.gain is None else "search"
        print(format_composition(examined.composition, whole=whole))
