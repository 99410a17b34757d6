"""Options + model -> the frozen vision tower's features of images, in a folder or in memory.

The cache holds the output of `ComposedRetriever.levels`: the chosen layers at the chosen scales,
before the tower's last LayerNorm, which is trained.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gatedcir.data.sources import FeatureSource, PixelSource, Source
from gatedcir.device import Device, name_of
from gatedcir.errors import UserError
from gatedcir.features.encode import Encoder, cache_in_memory
from gatedcir.features.folder import FeatureFolder
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.tower import VisionTower
from gatedcir.models.weights.tower import hash_weights
from gatedcir.processes import is_main, say
from gatedcir.resources import GIB, fits_in_memory

ENCODE_BATCH = 64  # images
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The tower's way of computing. It counts in addition to names, shapes and values of its weights.
_TOWER_SIZES = ("num_attention_heads", "patch_size", "hidden_act", "layer_norm_eps")


@dataclass(frozen=True)
class Keeping:
    """How features are kept."""

    where: Path | str
    """A folder, or "memory", or "auto": in memory if there is room."""
    read_from: str
    """auto, gpu, ram or disk."""
    runs_on: Device
    """Where and in which precision the tower computes."""
    dtype: torch.dtype
    """The type in which features are kept."""
    num_workers: int
    """Processes that load images."""


def stored_dtype(name: str, tower: Device) -> torch.dtype:
    """The type that --cache-dtype names. "auto" is the type in which the tower computes."""
    return _DTYPES.get(name, tower.precision or torch.float32)


def cached_source(
    keeping: Keeping, model: ComposedRetriever, pixels: PixelSource, *, may_write: bool
) -> Source:
    """Features of the images of `pixels`, or `pixels` itself if "auto" finds no room for them.

    Args:
        keeping: says where they are kept and read from.
        model: on the device that encodes.
        pixels: all images.
        may_write: keep features, in a folder or in memory. Without it, every image is used once
            only. Features come from a folder that holds all of them, else pixels are read.

    Raises:
        UserError: no room on the disk or the GPU; a folder that is damaged or not for these images.
            Never without `may_write`.
    """
    images, dtype = len(pixels.paths), keeping.dtype
    size = images * model.feature_bytes(dtype)
    device = _device(keeping, size) if may_write else None
    fits = fits_in_memory(images, model.feature_bytes(dtype))
    where = keeping.where
    if isinstance(where, Path):
        folder = feature_folder(keeping, model, pixels)
        from_disk = {"auto": not fits, "disk": True}.get(keeping.read_from, False)
        read = folder.open if from_disk else folder.load
        if may_write:
            fill_folder(folder, keeping, model, pixels)
            return _to(read(pixels.paths), device)
        try:
            return pixels if folder.missing(pixels.paths) else read(pixels.paths)
        except UserError as error:
            # The folder belongs to training. In other data, a name may stand for another image.
            say(f"note: {str(error).partition(';')[0]}; the images themselves are read")
    if not may_write:
        return pixels
    if where != "memory" and not fits:
        say(
            f"the vision features of {images} images take {size / GIB:.2f} GiB, more than half of "
            "the free memory: every step runs the vision tower; --cache-features FOLDER keeps them "
            "on a disk"
        )
        return pixels
    source = cache_in_memory(
        pixels,
        _encoder(keeping, model),
        batch_size=ENCODE_BATCH,
        num_workers=keeping.num_workers,
        progress=is_main(),
    )
    return _to(source, device)


def feature_folder(
    keeping: Keeping, model: ComposedRetriever, pixels: PixelSource
) -> FeatureFolder:
    """The folder below `--cache-features` for this model's features of these pixels."""
    assert isinstance(keeping.where, Path)
    dtype = keeping.dtype
    layers = model.backbone.check_layers(model.layers)
    settings = {
        "format": "1",
        "vision tower": tower_hash(model),
        "layers": " ".join(map(str, layers)),
        "scales": " ".join(map(str, model.scales)),
        "transform": repr(pixels.transform),
        "precision of the tower": keeping.runs_on.name,
        "precision of the features": name_of(dtype),
    }
    if model.more_layers:
        settings["layers at scale 1.0 only"] = " ".join(map(str, model.more_layers))
    if model.scale_towers.places:
        settings["tower and layers of each scale"] = ", ".join(
            f"{tower_hash(model, tower)} {tower.check_layers(model.layers)}"
            for tower in map(model.tower, model.scales)
        )
    shapes = model.level_shapes()
    return FeatureFolder.below(keeping.where, settings, shapes=shapes, dtype=dtype)


def fill_folder(
    folder: FeatureFolder, keeping: Keeping, model: ComposedRetriever, pixels: PixelSource
) -> None:
    """Encode the images that a folder lacks, and say so. Raises UserError as `fill` does."""
    missing = len(folder.missing(pixels.paths))
    size = missing * folder.bytes_per_image / GIB
    say(
        f"feature cache {folder.path}: {len(pixels.paths) - missing} images are there"
        + (f", {missing} are to be encoded, {size:.2f} GiB" if missing else "")
    )
    folder.fill(
        pixels,
        _encoder(keeping, model),
        batch_size=ENCODE_BATCH,
        num_workers=keeping.num_workers,
        progress=is_main(),
    )


def tower_hash(model: ComposedRetriever, tower: VisionTower | None = None) -> str:
    """A hash of all that a frozen tower's outputs depend on, but for the image.

    Without a tower, it is the backbone's.
    """
    tower = tower or model.backbone
    vision = tower.vision_model
    sizes = [getattr(tower.vision_config, name) for name in _TOWER_SIZES]
    weights = {  # the last LayerNorm is trained, and comes after the features
        name: weight
        for name, weight in vision.state_dict().items()
        if not name.startswith("post_layernorm.")
    }
    return hash_weights(weights, json.dumps([*sizes, model.backbone.image_size]))


def _encoder(keeping: Keeping, model: ComposedRetriever) -> Encoder:
    def encode(batch: Tensor) -> list[Tensor]:
        with keeping.runs_on.autocast():
            levels = model.levels(batch.to(keeping.runs_on.device, non_blocking=True))
        return [level.to(keeping.dtype) for level in levels]

    return encode


def _device(keeping: Keeping, size: int) -> torch.device | None:
    """The GPU if features are to be there. UserError if there is none, or no room for `size`."""
    if keeping.read_from != "gpu":
        return None
    device = keeping.runs_on.device
    if device.type != "cuda":
        raise UserError("--cache-device gpu needs a GPU, and the model is on none; leave it out.")
    free, _ = torch.cuda.mem_get_info(device)
    if size > free // 2:
        raise UserError(
            f"the vision features take {size / GIB:.2f} GiB, more than half of the "
            f"{free / GIB:.2f} GiB that are free on the GPU; pass --cache-device auto."
        )
    return device


def _to(source: Source, device: torch.device | None) -> Source:
    return source.to(device) if device and isinstance(source, FeatureSource) else source
