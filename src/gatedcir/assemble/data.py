"""Config -> splits, images, batches."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from gatedcir import processes
from gatedcir.benchmarks.base import Choice
from gatedcir.benchmarks.load import load_splits
from gatedcir.benchmarks.registry import benchmark
from gatedcir.benchmarks.resized import check_note
from gatedcir.children import outlive_signals
from gatedcir.data import transforms
from gatedcir.data.batches import TripletDataset
from gatedcir.data.changes import MARK
from gatedcir.data.extra import images_of
from gatedcir.data.order import TripletBatches
from gatedcir.data.readable import refuse_unreadable
from gatedcir.data.sources import PixelSource, Source
from gatedcir.data.transforms import Transform
from gatedcir.data.triplets import Split, first
from gatedcir.device import Device
from gatedcir.errors import UserError
from gatedcir.features.cache import Keeping, cached_source, stored_dtype
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.options.config import Config, DataConfig
from gatedcir.resources import MIB, largest_file, shared_memory

_AHEAD = 2  # batches that each loading process makes before they are asked for


def load_data(
    options: DataConfig,
    *names: str,
    folder: Path | None = None,
    ranked: bool = False,
    also: Collection[str] = (),
) -> list[list[Split]]:
    """The parts of each named split, with their files checked.

    Their protocol says if the data is synthetic, and if only the first triplets are used. The list
    of images that are left out is written to `folder`, with a note of the images that were read.
    `ranked` says that a training split is to be ranked. Its gallery is then whole. `also` names
    images of a training split whose files are kept without a triplet.
    """
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit} is out of range; give a number of 1 or more.")
    found = load_splits(
        options.dataset,
        options.folder,
        names,
        choice=Choice(
            options.fashioniq_protocol,
            options.fashioniq_categories,
            str(options.gallery),
            ranked,
            also=frozenset(also),
        ),
        skip_unreadable=options.skip_unreadable,
        num_workers=options.num_workers,
        folder=folder,
    )
    if options.limit is not None:
        found = [
            [first(part, options.limit, train=train and not ranked, also=also) for part in parts]
            for train, parts in zip((name == "train" for name in names), found, strict=True)
        ]
    if not is_synthetic(options):
        return found
    return [
        [replace(part, protocol=f"{part.protocol}, synthetic data") for part in parts]
        for parts in found
    ]


def load_training(config: Config, *names: str, folder: Path | None) -> list[list[Split]]:
    """As `load_data`. A training split also keeps the images of the config's further captions.

    Raises:
        UserError: a file of further captions is missing or no JSON list.
    """
    also = images_of(config.recipe.extra_captions)
    return load_data(config.data, *names, folder=folder, also=also)


def is_synthetic(options: DataConfig) -> bool:
    """Whether `synthetic.layouts` drew the dataset. It then left a mark in the folder."""
    return (options.folder / MARK).is_file()


def data_title(options: DataConfig) -> str:
    """The dataset's name, and a note if the data only has its layout."""
    name = benchmark(options.dataset).name
    return f"synthetic data in {name}'s layout" if is_synthetic(options) else name


def with_workers_that_fit(config: Config, model: ComposedRetriever, batch_size: int) -> Config:
    """The config, without loading processes if their images do not fit into shared memory.

    They pass on each batch as a file there, which must not be larger than a file may be.

    Args:
        config: says how many processes load images.
        model: says how large the images are.
        batch_size: the most images of a batch.
    """
    room, workers = shared_memory(), config.data.num_workers
    image = 3 * model.backbone.image_size**2 * torch.float32.itemsize
    needed, most = (workers * _AHEAD + 1) * batch_size * image, largest_file()
    if workers and most is not None and batch_size * image > most:
        processes.say(
            f"a batch of images takes {batch_size * image / MIB:.0f} MiB, and a file may have "
            f"{most / MIB:.0f} MiB (ulimit -f): images are loaded without processes, as with "
            "--num-workers 0"
        )
        return replace(config, data=replace(config.data, num_workers=0))
    if workers == 0 or room is None or needed <= room:
        return config
    processes.say(
        f"{workers} loading processes need {needed / MIB:.0f} MiB of shared memory, and "
        f"/dev/shm has {room / MIB:.0f} MiB: images are loaded without them, as with "
        "--num-workers 0; a container gets more with --shm-size"
    )
    return replace(config, data=replace(config.data, num_workers=0))


def features_folder(config: Config) -> Path | None:
    """The folder that `--cache-features` names."""
    where = config.run.cache_features
    return where if isinstance(where, Path) else None


def device_of(config: Config, model: ComposedRetriever) -> Device:
    """Where a model is, and the config's precision there."""
    return Device.of(config.optim.mixed_precision, model.temp.device)


def may_cache(config: Config) -> bool:
    """Whether features may replace pixels: the tower is frozen, and the cache is not "none"."""
    return not config.backbone.train_vision and config.run.cache_features != "none"


def keeping(config: Config, runs_on: Device) -> Keeping:
    """How the config wants features to be kept that a device computes."""
    return Keeping(
        where=config.run.cache_features,
        read_from=config.run.cache_device,
        runs_on=runs_on,
        dtype=stored_dtype(config.optim.cache_dtype, runs_on),
        num_workers=config.data.num_workers,
    )


def make_transform(config: Config, model: ComposedRetriever) -> Transform:
    """The config's transform at the model's input size."""
    options = config.transform
    return transforms.make_transform(
        options.transform,
        size=model.backbone.image_size,
        target_ratio=options.target_ratio,
        draft=options.draft,
    )


def make_pixels(config: Config, model: ComposedRetriever, splits: list[Split]) -> PixelSource:
    """All images of the splits, with the config's transform.

    Raises UserError if they are copies that were resized for another transform.
    """
    paths = {name: path for split in splits for name, path in split.paths.items()}
    transform = make_transform(config, model)
    check_note(config.data.folder, transform)
    return PixelSource(paths, transform, features_folder(config))


def make_source(
    config: Config, model: ComposedRetriever, splits: list[Split], *, may_write: bool = True
) -> Source:
    """Pixels or cached features of all images of the splits, as the config says.

    Without `may_write`, features come only from a folder that holds all images. If every step of a
    training reads pixels, all images are read once before it starts.

    Raises:
        UserError: as `cached_source`; images cannot be read.
    """
    pixels = make_pixels(config, model, splits)
    source: Source = pixels
    if may_cache(config):
        kept = keeping(config, device_of(config, model))
        source = cached_source(kept, model, pixels, may_write=may_write)
    if source is pixels and may_write and not config.data.skip_unreadable and processes.is_main():
        refuse_unreadable(
            set(pixels.paths.values()),
            num_workers=config.data.num_workers,
            folder=pixels.list_folder,
        )
    return source


def make_loader(config: Config, dataset: TripletDataset) -> DataLoader:
    """Training batches of this process.

    A last partial batch is left out, because the negatives of all processes are gathered.
    """
    order = TripletBatches(
        dataset.triplets,
        batch_size=config.optim.batch_size,
        related=config.optim.related,
        seed=config.optim.seed,
        process=processes.rank(),
        processes=processes.count(),
    )
    return DataLoader(
        dataset,
        batch_size=None,  # the dataset makes the batches
        sampler=order,
        num_workers=config.data.num_workers if dataset.reads_files else 0,
        worker_init_fn=outlive_signals,
        pin_memory=torch.cuda.is_available() and not dataset.source.on_gpu,
    )
