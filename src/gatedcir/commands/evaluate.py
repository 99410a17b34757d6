"""Evaluate a checkpoint: parse, open, validate, report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from gatedcir.commands.main import COMMANDS
from gatedcir.commands.of_run import MORE, InRun, OfRun, data_of
from gatedcir.errors import UserError, check_file_to_write
from gatedcir.options.config import (
    ALL_CATEGORIES,
    Categories,
    DataConfig,
    DataPath,
    Device,
    FashionIQGallery,
    Gallery,
    MeasuredSplit,
    ModelPath,
    Seldom,
    SkipUnreadable,
)
from gatedcir.options.parsing import parse
from gatedcir.options.recipe_config import RecipeConfig, Rerank


@dataclass(frozen=True)
class DataOfRun(DataConfig):
    """A dataset. If no flag names it, the model's run does."""

    dataset: InRun = None  # type: ignore[assignment]
    data_path: OfRun[DataPath] = None
    """The dataset's folder. Without it: that of the run, or for a named dataset its usual one, such
    as ./cirr_dataset."""
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
    rerank: Rerank = RecipeConfig.rerank
    device: Device = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report of a checkpoint on a split."""
    description = f"{COMMANDS['evaluate']} {MORE}"
    options = parse(Options, argv, description=description)
    if options.output is not None:
        check_file_to_write(options.output, "--output")
    import torch

    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.evaluation.evaluator import validate_each
    from gatedcir.evaluation.report import format_report, format_scales
    from gatedcir.evaluation.reranking import format_reranked
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
    )
    for split in splits:
        if not all(triplet.targets for triplet in split.triplets):
            raise UserError(
                f"{split.name} has no published targets to compare with; gatedcir submit writes "
                "the answers for its server."
            )
    encoders = [evaluator.encode_query]
    # What the gate is worth belongs into every report of a search. The matcher looks through it.
    if evaluator.has_gate and not evaluator.judges:
        encoders.append(evaluator.encode_without_gate)
    metrics, *without_gate = validate_each(evaluator, splits, encoders)
    source = locate(str(options.model_path))
    print(format_report(metrics, splits, title=str(source)))
    if evaluator.reranked:
        measure = evaluator.benchmark.measure
        print(format_reranked(evaluator.reranked, measure, top=evaluator.rerank))
    if evaluator.needed:
        model = evaluator.model
        lengths = [model.backbone.token_count(scale) for scale in model.scales]
        print(format_scales(torch.cat(evaluator.needed), scales=model.scales, lengths=lengths))
    headline = evaluator.benchmark.headline
    for closed in without_gate:
        print(f"recall without the gate: {closed[headline]:.2f} ({headline})")
    if options.output is not None:
        protocol = {split.name: split.protocol for split in splits}
        content: dict[str, Any] = {"checkpoint": str(source), "trained_on": evaluator.trained_on}
        content |= {"protocol": protocol, "metrics": metrics}
        if without_gate:
            content["metrics_without_gate"] = without_gate[0]
        write_json(options.output, content)
