"""Config or checkpoint -> the parts of a run: data, images, evaluator."""

from dataclasses import replace
from pathlib import Path

import torch

from gatedcir.assemble.data import (
    data_title,
    device_of,
    load_data,
    make_source,
    make_transform,
    with_workers_that_fit,
)
from gatedcir.assemble.model import open_trained, trained_model
from gatedcir.benchmarks.registry import benchmark
from gatedcir.data.pictures import open_image
from gatedcir.data.sources import Source
from gatedcir.data.triplets import Split
from gatedcir.device import Device, find_device
from gatedcir.evaluation.cross_encoder import CrossEncoderReranker, load_cross_encoder
from gatedcir.evaluation.evaluator import Evaluator
from gatedcir.features.cache import ENCODE_BATCH
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokenizer
from gatedcir.models.weights.sources import Pretrained, load
from gatedcir.options.config import Config, DataConfig
from gatedcir.options.recipe_config import RecipeConfig
from gatedcir.run_folder.checkpoint import Checkpoint
from gatedcir.run_folder.provenance import recipes_of

LARGEST_BATCH = max(Evaluator.batch_size, ENCODE_BATCH)
"""The most images of a batch outside of training."""


def place(model: ComposedRetriever, device: torch.device, config: Config) -> ComposedRetriever:
    """Move the model to a device, and choose what is fastest there.

    A frozen vision tower is kept in the precision in which it computes, which halves its memory.
    Trainable weights stay in float32. On CPUs, torch's fused attention is slow in the backward
    pass, and even slower with dropout or a mask.
    """
    precision = Device.of(config.optim.mixed_precision, device).precision
    for tower in model.towers:
        if precision is not None and not config.backbone.train_vision:
            tower.set_tower_dtype(precision)
        tower.set_attention("eager" if device.type == "cpu" else "sdpa")
    return model.to(device)


def make_evaluator(
    config: Config, model: ComposedRetriever, tokenizer: Tokenizer, source: Source
) -> Evaluator:
    """The evaluator that training, validation, submission and pictures share."""
    return Evaluator(
        model,
        tokenizer,
        source,
        make_transform(config, model),
        benchmark(config.data.dataset),
        num_workers=config.data.num_workers,
        gallery_on_gpu=not config.run.save_memory,
        runs_on=device_of(config, model),
        rerank=config.recipe.rerank,
    )


def open_checkpoint(
    path: Path, device: str = "auto"
) -> tuple[ComposedRetriever, Tokenizer, Config]:
    """The model of a run or of other weights on a device, its tokenizer and config.

    Raises:
        UserError: nothing there, or not readable.
    """
    where = find_device(device)
    model, tokenizer, config = open_trained(str(path))
    return place(model, where, config), tokenizer, config


def open_evaluator(
    path: Path,
    data: DataConfig,
    split: str,
    *,
    device: str = "auto",
    found: Pretrained | None = None,
    rerank: int = RecipeConfig.rerank,
    reranker: str | None = None,
) -> tuple[Evaluator, list[Split]]:
    """A model and a dataset's split, ready to be evaluated together.

    Transform, precision and other settings come from the model's config.

    Args:
        path: the model's.
        data: the dataset, and how it is read.
        split: its split.
        device: as `--device` has it.
        found: the earlier result of `load` for this path.
        rerank: how many of the first images are reranked.
        reranker: the cross-encoder that reranks in place of the model's matcher.

    Raises:
        UserError: as `open_checkpoint` and the readers do.
    """
    where = find_device(device)
    encoder = None if reranker is None else load_cross_encoder(reranker, str(where))
    [splits] = load_data(data, split, ranked=True)
    found = found or load(str(path))
    model, tokenizer, config = trained_model(found, str(path))
    place(model, where, config)
    trained_on = _dataset_of(found.run)
    if trained_on not in (None, data_title(data)):
        print(f"{path} was trained on {trained_on}, and is evaluated on {data_title(data)}")
    for line in [] if found.run is None else recipes_of(found.run.provenance):
        print(f"{path} was trained with a recipe: {line}")
        trained_on = f"{trained_on}; {line}"
    config = with_workers_that_fit(replace(config, data=data), model, LARGEST_BATCH)
    # The folder belongs to training. An evaluation elsewhere or on other images must not fill it.
    source = make_source(config, model, splits, may_write=False)
    evaluator = make_evaluator(config, model, tokenizer, source)
    judge = None
    if encoder is not None:
        paths = {name: path for one in splits for name, path in one.paths.items()}
        judge = CrossEncoderReranker(encoder, lambda name: open_image(paths[name]))
    return replace(evaluator, trained_on=trained_on, rerank=rerank, judge=judge), splits


def _dataset_of(run: Checkpoint | None) -> str | None:
    """The dataset that a run was trained on. None without training."""
    if run is None or run.epoch == 0:
        return None
    return run.provenance.get("dataset", run.config["dataset"])
