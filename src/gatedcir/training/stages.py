"""The stages of training: each makes the step and the batches that the one loop runs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from gatedcir.assemble.data import make_loader
from gatedcir.benchmarks.registry import benchmark
from gatedcir.data.batches import TripletDataset
from gatedcir.data.sources import Source
from gatedcir.data.triplets import Triplet
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokenizer
from gatedcir.options.config import Config
from gatedcir.training import bank_stage, rerank_stage
from gatedcir.training.later_step import LaterStep
from gatedcir.training.step import TrainingStep, make_step


@dataclass(frozen=True)
class Parts:
    """What every stage is made of."""

    config: Config
    accelerator: Accelerator
    model: ComposedRetriever
    tokenizer: Tokenizer
    triplets: list[Triplet]
    images: list[str]
    """All training images, each once."""
    source: Source
    folder: Path
    """The run's."""
    resumes: bool
    """Whether the weights are those of a run that goes on."""
    weights: list[float] | None = None
    """Of the triplets. None if all of them are 1."""


@dataclass(frozen=True)
class _Stage:
    """What tells a stage apart."""

    dataset: TripletDataset
    model: nn.Module | None = None
    """What the step calls in place of the model, and holds it."""
    step: type[LaterStep] | None = None


def _whole(parts: Parts, given: dict[str, Any]) -> _Stage:
    return _Stage(TripletDataset(**given))


def _bank(parts: Parts, given: dict[str, Any]) -> _Stage:
    model, branch = parts.model, parts.model.query_branch
    if (reset := parts.config.recipe.bank_temperature) > 0 and not parts.resumes:
        model.temp.data.fill_(reset)
    bank_stage.freeze(model)
    dataset = bank_stage.BankTriplets(
        **given, images=parts.images, only_numbers=branch is not None and not branch.first
    )
    return _Stage(dataset, bank_stage.Queries(model), bank_stage.BankStep)


def _rerank(parts: Parts, given: dict[str, Any]) -> _Stage:
    recipe = parts.config.recipe
    rerank_stage.freeze(parts.model)
    dataset = rerank_stage.JudgedTriplets(
        **given, images=parts.images, negatives=recipe.rerank_negatives, easy=recipe.rerank_easy
    )
    return _Stage(dataset, rerank_stage.Matches(parts.model), rerank_stage.RerankStep)


_STAGES: dict[str, Callable[[Parts, dict[str, Any]], _Stage]] = {
    "whole": _whole,
    "bank": _bank,
    "rerank": _rerank,
}


def step_and_loader(parts: Parts) -> tuple[TrainingStep, DataLoader]:
    """The step of the config's stage, and the batches that it learns from."""
    config = parts.config
    given = {
        "triplets": parts.triplets,
        "source": parts.source,
        "seed": config.optim.seed,
        "text": benchmark(config.data.dataset).training_text,
        "weights": parts.weights,
    }
    stage = _STAGES[config.recipe.stage](parts, given)
    loader = make_loader(config, stage.dataset)
    step = make_step(
        config,
        parts.accelerator,
        parts.model,
        parts.tokenizer,
        steps_per_epoch=len(loader),
        module=stage.model,
    )
    if stage.step is not None:
        step = stage.step(**vars(step), dataset=stage.dataset, folder=parts.folder)
    step.bound_temperature()  # that of a run with another loss may lie outside
    return step, loader
