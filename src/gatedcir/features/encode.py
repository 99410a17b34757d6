"""Pixels through the frozen vision tower, each image once.

Shapes: B batch, L visual tokens, Dv vision width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from gatedcir.data.sources import FeatureSource, PixelSource, batches
from gatedcir.progress import bar as bar_of

Encoder = Callable[[Tensor], list[Tensor]]
"""Pixels [B, 3, H, W] -> one [B, L, Dv] a layer."""


@torch.inference_mode()
def encode_images(
    source: PixelSource,
    names: Sequence[str],
    encode: Encoder,
    *,
    batch_size: int,
    num_workers: int,
    bar: tqdm,
) -> list[Tensor]:
    """The features of `names`, each image encoded once: one [images, L, Dv] a layer, on the CPU.

    Raises UserError with the file's name on a broken image.
    """
    levels: list[Tensor] = []
    done = 0
    for pixels in batches(source, names, batch_size=batch_size, num_workers=num_workers):
        assert isinstance(pixels, Tensor)
        found = encode(pixels)
        if not levels:
            # Written in place: a list of batches would need twice the memory at the end.
            levels = [torch.empty(len(names), *f.shape[1:], dtype=f.dtype) for f in found]
        for level, feature in zip(levels, found, strict=True):
            level[done : done + len(pixels)] = feature.cpu()
        done += len(pixels)
        bar.update(len(pixels))
    return levels


def cache_in_memory(
    source: PixelSource,
    encode: Encoder,
    *,
    batch_size: int,
    num_workers: int,
    progress: bool = True,
) -> FeatureSource:
    """The features of all images of a source, each encoded once, kept on the CPU.

    Raises UserError with the file's name on a broken image.
    """
    names = sorted(source.paths)
    with progress_bar(len(names), show=progress) as bar:
        levels = encode_images(
            source, names, encode, batch_size=batch_size, num_workers=num_workers, bar=bar
        )
    return FeatureSource({name: row for row, name in enumerate(names)}, levels)


def progress_bar(images: int, *, show: bool) -> tqdm:
    """A bar with images a second and the time left."""
    return bar_of(total=images, desc="vision features", unit="img", show=show)
