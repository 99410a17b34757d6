"""The stages of training: each makes the step and the batches that the one loop runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
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
from gatedcir.training.step import TrainingStep, make_step


@dataclass(frozen=True)
class Parts:
    """What every stage is made of."""

    config: Config
    accelerator: Accelerator
    model: ComposedRetriever
    tokenizer: Tokenizer
    triplets: list[Triplet]
    images: Sequence[str]
    """All training images, each once."""
    source: Source
    folder: Path
    """The run's."""
    resumes: bool
    """Whether the weights are those of a run that goes on."""
    weights: list[float] | None = None
    """Of the triplets. None if all of them are 1."""


def _whole(parts: Parts) -> tuple[TrainingStep, DataLoader]:
    config = parts.config
    text = benchmark(config.data.dataset).training_text
    dataset = TripletDataset(
        parts.triplets, parts.source, seed=config.optim.seed, text=text, weights=parts.weights
    )
    loader = make_loader(config, dataset)
    step = make_step(
        config, parts.accelerator, parts.model, parts.tokenizer, steps_per_epoch=len(loader)
    )
    return step, loader


def _bank(parts: Parts) -> tuple[TrainingStep, DataLoader]:
    config, model = parts.config, parts.model
    if (reset := config.recipe.bank_temperature) > 0 and not parts.resumes:
        model.temp.data.fill_(reset)
    bank_stage.freeze(model)
    branch = model.query_branch
    dataset = bank_stage.BankTriplets(
        parts.triplets,
        parts.source,
        seed=config.optim.seed,
        text=benchmark(config.data.dataset).training_text,
        weights=parts.weights,
        images=list(parts.images),
        only_numbers=branch is not None and not branch.first,
    )
    loader = make_loader(config, dataset)
    step = make_step(
        config,
        parts.accelerator,
        model,
        parts.tokenizer,
        steps_per_epoch=len(loader),
        module=bank_stage.Queries(model),
    )
    return bank_stage.BankStep(**vars(step), dataset=dataset, folder=parts.folder), loader


def _rerank(parts: Parts) -> tuple[TrainingStep, DataLoader]:
    config, model = parts.config, parts.model
    rerank_stage.freeze(model)
    most = len(parts.images) - 1
    dataset = rerank_stage.JudgedTriplets(
        parts.triplets,
        parts.source,
        seed=config.optim.seed,
        text=benchmark(config.data.dataset).training_text,
        images=list(parts.images),
        negatives=min(config.recipe.rerank_negatives, most),
    )
    loader = make_loader(config, dataset)
    step = make_step(
        config,
        parts.accelerator,
        model,
        parts.tokenizer,
        steps_per_epoch=len(loader),
        module=rerank_stage.Matches(model),
    )
    return rerank_stage.RerankStep(**vars(step), dataset=dataset, folder=parts.folder), loader


STAGES: dict[str, Callable[[Parts], tuple[TrainingStep, DataLoader]]] = {
    "whole": _whole,
    "bank": _bank,
    "rerank": _rerank,
}
