"""Config + model -> the frozen vision tower's features of images: in a folder, in memory, or not.

They are what `ComposedRetriever.levels` gives: the chosen layers at the chosen scales before the
tower's last LayerNorm, which is trained.
"""

import hashlib
import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from gatedcir.data.sources import FeatureSource, PixelSource, Source
from gatedcir.device import autocast
from gatedcir.errors import UserError
from gatedcir.features.encode import Encoder, cache_in_memory
from gatedcir.features.folder import FeatureFolder
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.options.config import Config
from gatedcir.resources import fits_in_memory

ENCODE_BATCH = 64  # images
_GIB = 2**30
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# What the tower computes beside its weights' names, shapes and values.
_TOWER_SIZES = ("num_attention_heads", "patch_size", "hidden_act", "layer_norm_eps")


def may_cache(config: Config) -> bool:
    """Whether the vision tower's features may stand in for pixels: it is frozen, and not "none"."""
    return not config.backbone.train_vision and config.run.cache_features != "none"


def stored_dtype(config: Config, precision: torch.dtype | None) -> torch.dtype:
    """The type that features are cached in, of a tower that computes in `precision`."""
    return _DTYPES.get(config.optim.cache_dtype, precision or torch.float32)


def cached_source(
    config: Config,
    model: ComposedRetriever,
    pixels: PixelSource,
    *,
    precision: torch.dtype | None,
    may_write: bool,
) -> Source:
    """Features of the images of `pixels`, or `pixels` where "auto" finds no room for them.

    Args:
        config: says where they are kept and read from.
        model: on the device that encodes.
        pixels: all images.
        precision: of autocast.
        may_write: keep features, in a folder or in memory. Else images are read once: features
            come from a folder that holds them all, and pixels are read where there is none.

    Raises:
        UserError: no room on the disk or the GPU; a folder that is damaged or not for these images.
            Never without `may_write`.
    """
    images, dtype = len(pixels.paths), stored_dtype(config, precision)
    size = images * model.feature_bytes(dtype)
    device = _device(config, model, size) if may_write else None
    fits = fits_in_memory(images, model.feature_bytes(dtype))
    where = config.run.cache_features
    if isinstance(where, Path):
        folder = feature_folder(config, model, pixels, precision=precision)
        from_disk = {"auto": not fits, "disk": True}.get(config.run.cache_device, False)
        read = folder.open if from_disk else folder.load
        if may_write:
            fill_folder(folder, config, model, pixels, precision=precision)
            return _to(read(pixels.paths), device)
        try:
            return pixels if folder.missing(pixels.paths) else read(pixels.paths)
        except UserError as error:
            # The folder is the training's: other data may have the same names for other images.
            _say(f"note: {str(error).partition(';')[0]}; the images themselves are read")
    if not may_write:
        return pixels
    if where != "memory" and not fits:
        _say(
            f"the vision features of {images} images take {size / _GIB:.2f} GiB, more than half of "
            "the free memory: every step runs the vision tower; --cache-features FOLDER keeps them "
            "on a disk"
        )
        return pixels
    source = cache_in_memory(
        pixels,
        _encoder(model, precision, dtype),
        batch_size=ENCODE_BATCH,
        num_workers=config.data.num_workers,
        progress=is_main(),
    )
    return _to(source, device)


def feature_folder(
    config: Config, model: ComposedRetriever, pixels: PixelSource, *, precision: torch.dtype | None
) -> FeatureFolder:
    """The folder below `--cache-features` for what this model makes of these pixels."""
    assert isinstance(config.run.cache_features, Path)
    backbone, dtype = model.backbone, stored_dtype(config, precision)
    layers = backbone.check_layers(model.layers)
    settings = {
        "format": "1",
        "vision tower": tower_hash(model),
        "layers": " ".join(map(str, layers)),
        "scales": " ".join(map(str, model.scales)),
        "transform": repr(pixels.transform),
        "precision of the tower": _name(precision or torch.float32),
        "precision of the features": _name(dtype),
    }
    tokens = [backbone.token_count(scale) for scale in model.scales for _ in layers]
    shapes = [(count, backbone.vision_width) for count in tokens]
    return FeatureFolder.below(config.run.cache_features, settings, shapes=shapes, dtype=dtype)


def fill_folder(
    folder: FeatureFolder,
    config: Config,
    model: ComposedRetriever,
    pixels: PixelSource,
    *,
    precision: torch.dtype | None,
) -> None:
    """Encode what a folder lacks, and say so. Raises UserError as `FeatureFolder.fill`."""
    missing = len(folder.missing(pixels.paths))
    size = missing * folder.bytes_per_image / _GIB
    _say(
        f"feature cache {folder.path}: {len(pixels.paths) - missing} images are there"
        + (f", {missing} are to be encoded, {size:.2f} GiB" if missing else "")
    )
    folder.fill(
        pixels,
        _encoder(model, precision, folder.dtype),
        batch_size=ENCODE_BATCH,
        num_workers=config.data.num_workers,
        progress=is_main(),
    )


def tower_hash(model: ComposedRetriever) -> str:
    """A hash of all that the frozen tower's outputs depend on, but for the image."""
    vision = model.backbone.vision_model
    sizes = [getattr(model.backbone.config.vision_config, name) for name in _TOWER_SIZES]
    found = hashlib.sha256(json.dumps([*sizes, model.backbone.image_size]).encode())
    for name, weight in sorted(vision.state_dict().items()):
        if not name.startswith("post_layernorm."):  # it is trained, and comes after
            found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            found.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def _encoder(
    model: ComposedRetriever, precision: torch.dtype | None, dtype: torch.dtype
) -> Encoder:
    device = model.temp.device

    def encode(batch: Tensor) -> list[Tensor]:
        with autocast(device, precision):
            levels = model.levels(batch.to(device, non_blocking=True))
        return [level.to(dtype) for level in levels]

    return encode


def _device(config: Config, model: ComposedRetriever, size: int) -> torch.device | None:
    """The GPU if features are to be there; UserError if there is none, or not room for `size`."""
    if config.run.cache_device != "gpu":
        return None
    device = model.temp.device
    if device.type != "cuda":
        raise UserError("--cache-device gpu needs a GPU, and the model is on none; leave it out.")
    free, _ = torch.cuda.mem_get_info(device)
    if size > free // 2:
        raise UserError(
            f"the vision features take {size / _GIB:.2f} GiB, more than half of the "
            f"{free / _GIB:.2f} GiB that are free on the GPU; pass --cache-device auto."
        )
    return device


def _to(source: Source, device: torch.device | None) -> Source:
    return source.to(device) if device and isinstance(source, FeatureSource) else source


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def is_main() -> bool:
    """Whether this process is the only one, or the first."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _say(line: str) -> None:
    if is_main():
        print(line)
