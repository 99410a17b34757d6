"""Config -> the parts of a run: data, images, evaluator; from a config or from a checkpoint."""

from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from gatedcir.checkpoint import Checkpoint
from gatedcir.config import Config, DataConfig
from gatedcir.data import transforms
from gatedcir.data.features import PixelSource, Source, TripletDataset
from gatedcir.data.load import Choice, load_splits
from gatedcir.data.memory import shared_memory
from gatedcir.data.order import TripletBatches
from gatedcir.data.readable import refuse_unreadable
from gatedcir.data.resized import check_note
from gatedcir.data.transforms import Transform
from gatedcir.data.triplets import Split
from gatedcir.models.build import open_trained, trained_model
from gatedcir.models.composer import ComposedRetriever
from gatedcir.models.sources import load
from gatedcir.models.text import Tokenizer
from gatedcir.validate import Evaluator
from gatedcir.vision_cache import ENCODE_BATCH, cached_source, is_main, may_cache

SYNTHETIC = "synthetic.json"  # what `synthetic.layouts` marks its datasets with
LARGEST_BATCH = max(Evaluator.batch_size, ENCODE_BATCH)
"""The most images of a batch outside of training."""
_AHEAD = 2  # batches that each loading process makes before they are asked for
_MIB = 2**20


def precision_of(mixed_precision: str, device: torch.device) -> torch.dtype | None:
    """The type to autocast to on a device, or None for float32 throughout."""
    if mixed_precision == "auto":
        if device.type == "cuda":
            computes = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            computes = _cpu_computes_in_bf16()
        return torch.bfloat16 if computes else None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[mixed_precision]


def _cpu_computes_in_bf16() -> bool:
    """Whether the CPU has instructions for it; emulated, it would be slower than float32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def place(model: ComposedRetriever, device: torch.device, config: Config) -> ComposedRetriever:
    """Move the model to a device, and choose what is fastest there.

    A frozen vision tower is kept in the precision that it computes in, which halves its memory;
    all that learns stays in float32. On CPUs torch's fused attention is slow backwards, and slower
    still with dropout or a mask.
    """
    precision = precision_of(config.optim.mixed_precision, device)
    if precision is not None and not config.backbone.train_vision:
        model.backbone.set_tower_dtype(precision)
    model.backbone.set_attention("eager" if device.type == "cpu" else "sdpa")
    return model.to(device)


def load_data(options: DataConfig, *names: str, folder: Path | None = None) -> list[list[Split]]:
    """The parts of each split named, their files checked. Their protocol says if they are drawn.

    `folder` takes the list of those that are left out, and notes which images were read.
    """
    found = load_splits(
        options.dataset,
        options.folder,
        names,
        choice=Choice(options.fashioniq_protocol, options.fashioniq_categories, options.gallery),
        skip_unreadable=options.skip_unreadable,
        num_workers=options.num_workers,
        folder=folder,
    )
    if not is_synthetic(options):
        return found
    return [
        [replace(part, protocol=f"{part.protocol}, synthetic data") for part in parts]
        for parts in found
    ]


def is_synthetic(options: DataConfig) -> bool:
    """Whether the dataset was drawn by `synthetic.layouts`, which leaves a mark in its folder."""
    return (options.folder / SYNTHETIC).is_file()


def data_title(options: DataConfig) -> str:
    """The dataset's name, and whether it is only its layout."""
    if is_synthetic(options):
        return f"synthetic data in {options.dataset}'s layout"
    return options.dataset


def with_workers_that_fit(config: Config, model: ComposedRetriever, batch_size: int) -> Config:
    """The config without loading processes where shared memory does not hold their images.

    Args:
        config: says how many processes load images.
        model: says how large the images are.
        batch_size: the most images of a batch.
    """
    room, workers = shared_memory(), config.data.num_workers
    image = 3 * model.backbone.image_size**2 * torch.float32.itemsize
    needed = (workers * _AHEAD + 1) * batch_size * image
    if workers == 0 or room is None or needed <= room:
        return config
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(
            f"{workers} loading processes need {needed / _MIB:.0f} MiB of shared memory, and "
            f"/dev/shm has {room / _MIB:.0f} MiB: images are loaded without them, as with "
            "--num-workers 0; a container gets more with --shm-size"
        )
    return replace(config, data=replace(config.data, num_workers=0))


def features_folder(config: Config) -> Path | None:
    """The folder that `--cache-features` names."""
    where = config.run.cache_features
    return where if isinstance(where, Path) else None


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
    """All images of the splits, as the config's transform has them.

    Raises UserError if they are copies that were resized for another transform.
    """
    paths = {name: path for split in splits for name, path in split.paths.items()}
    transform = make_transform(config, model)
    check_note(config.data.folder, transform)
    return PixelSource(paths, transform, features_folder(config))


def make_source(
    config: Config, model: ComposedRetriever, splits: list[Split], *, may_write: bool = True
) -> Source:
    """Pixels or cached features of all images of the splits, as the config has it.

    Without `may_write` features come from a folder that holds all images, and from nowhere else.
    Where every step of a training is to read pixels, all images are read once before.

    Raises:
        UserError: as `cached_source`; images cannot be read.
    """
    pixels = make_pixels(config, model, splits)
    source: Source = pixels
    if may_cache(config):
        precision = precision_of(config.optim.mixed_precision, model.temp.device)
        source = cached_source(config, model, pixels, precision=precision, may_write=may_write)
    if source is pixels and may_write and not config.data.skip_unreadable and is_main():
        refuse_unreadable(
            set(pixels.paths.values()),
            num_workers=config.data.num_workers,
            folder=pixels.list_folder,
        )
    return source


def make_loader(config: Config, dataset: TripletDataset) -> DataLoader:
    """Training batches of this process.

    A last partial one is left out, as the negatives of all processes are gathered.
    """
    parallel = dist.is_initialized()
    order = TripletBatches(
        dataset.triplets,
        batch_size=config.optim.batch_size,
        related=config.optim.related,
        seed=config.optim.seed,
        process=dist.get_rank() if parallel else 0,
        processes=dist.get_world_size() if parallel else 1,
    )
    return DataLoader(
        dataset,
        batch_size=None,  # the dataset makes the batches
        sampler=order,
        num_workers=config.data.num_workers if dataset.reads_files else 0,
        pin_memory=torch.cuda.is_available() and not dataset.source.on_gpu,
    )


def make_evaluator(
    config: Config, model: ComposedRetriever, tokenizer: Tokenizer, source: Source
) -> Evaluator:
    """The evaluator that training, validation, submission and pictures share."""
    return Evaluator(
        model,
        tokenizer,
        source,
        make_transform(config, model),
        num_workers=config.data.num_workers,
        gallery_on_gpu=not config.run.save_memory,
        precision=precision_of(config.optim.mixed_precision, model.temp.device),
    )


def open_checkpoint(path: Path) -> tuple[ComposedRetriever, Tokenizer, Config]:
    """The model of a run or of other weights on the best device, its tokenizer and config.

    Raises:
        UserError: nothing there, or not readable.
    """
    return _on_best_device(open_trained(str(path)))


def open_evaluator(path: Path, data: DataConfig, split: str) -> tuple[Evaluator, list[Split]]:
    """A model and a dataset's split, ready to be evaluated together.

    Transform, precision and the rest are those of its config. Raises UserError as
    `open_checkpoint` and the readers do.
    """
    [splits] = load_data(data, split)
    found = load(str(path))
    model, tokenizer, config = _on_best_device(trained_model(found, str(path)))
    trained_on = _dataset_of(found.run)
    if trained_on not in (None, data_title(data)):
        print(f"{path} was trained on {trained_on}, and is evaluated on {data_title(data)}")
    config = with_workers_that_fit(replace(config, data=data), model, LARGEST_BATCH)
    # The folder is the training's: to evaluate elsewhere, or on other images, must not fill it.
    source = make_source(config, model, splits, may_write=False)
    evaluator = make_evaluator(config, model, tokenizer, source)
    return replace(evaluator, trained_on=trained_on), splits


def _dataset_of(run: Checkpoint | None) -> str | None:
    """The dataset that a run was trained on; None without training."""
    if run is None or run.epoch == 0:
        return None
    return run.provenance.get("dataset", run.config["dataset"])


def _on_best_device(
    opened: tuple[ComposedRetriever, Tokenizer, Config],
) -> tuple[ComposedRetriever, Tokenizer, Config]:
    model, tokenizer, config = opened
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return place(model, device, config), tokenizer, config
