"""Images as the model reads them: pixels from files, or the frozen tower's features from memory.

Shapes: B batch, L visual tokens, Dv vision width, H x W pixels.
"""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from gatedcir.data.transforms import Transform, open_image
from gatedcir.data.triplets import Triplet, training_text

Image = Tensor | list[Tensor]
"""Pixels [3, H, W], or one feature map [L, Dv] a layer; with a leading B for a batch."""


@dataclass(frozen=True)
class PixelSource:
    """Reads and transforms an image whenever it is asked for."""

    paths: dict[str, Path]
    transform: Transform

    def __getitem__(self, name: str) -> Tensor:
        return self.transform(open_image(self.paths[name]))


@dataclass(frozen=True)
class FeatureSource:
    """Holds the tower's features of every image in memory."""

    rows: dict[str, int]
    levels: list[Tensor]  # one [images, L, Dv] a layer

    def __getitem__(self, name: str) -> list[Tensor]:
        return [level[self.rows[name]] for level in self.levels]


Source = PixelSource | FeatureSource


class _Images(Dataset):
    def __init__(self, source: Source, names: Sequence[str]) -> None:
        self.source, self.names = source, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Image:
        return self.source[self.names[index]]


def batches(
    source: Source, names: Sequence[str], *, batch_size: int, num_workers: int
) -> Iterator[Image]:
    """The images of `names` in order, B at a time."""
    if isinstance(source, FeatureSource):
        num_workers = 0  # there is nothing to read
    return iter(DataLoader(_Images(source, names), batch_size, num_workers=num_workers))


@torch.inference_mode()
def cache_in_memory(
    source: PixelSource,
    encode: Callable[[Tensor], list[Tensor]],
    *,
    batch_size: int,
    num_workers: int,
    progress: bool = True,
) -> FeatureSource:
    """The features of all images of a source, each encoded once, kept on the CPU.

    `encode` turns pixels [B, 3, H, W] into one [B, L, Dv] a layer. Raises UserError with the
    file's name on a broken image.
    """
    names = sorted(source.paths)
    levels: list[Tensor] = []
    done = 0
    with tqdm(total=len(names), desc="vision features", unit="img", disable=not progress) as bar:
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
    return FeatureSource({name: row for row, name in enumerate(names)}, levels)


def fits_in_memory(images: int, bytes_per_image: int) -> bool:
    """Whether the features of so many images take at most half of the memory that is free.

    Processes of one machine hold them each, and share that half.
    """
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return images * bytes_per_image * sharing <= psutil.virtual_memory().available // 2


class TripletDataset(Dataset):
    """Training items: reference, target, text and the target's number, equal for equal images.

    The text is drawn anew every epoch, from the seed, the epoch and the item alone, so that a
    resumed run draws what an uninterrupted one does.
    """

    def __init__(self, triplets: Sequence[Triplet], source: Source, *, seed: int) -> None:
        self.triplets, self.source, self.seed = triplets, source, seed
        self.epoch = 0
        numbers: dict[str | None, int] = {}
        self.target_ids = [numbers.setdefault(t.target, len(numbers)) for t in triplets]

    @property
    def reads_files(self) -> bool:
        """Whether items are read from files, so that worker processes help."""
        return isinstance(self.source, PixelSource)

    def __len__(self) -> int:
        return len(self.triplets)

    def __getitem__(self, index: int) -> tuple[Image, Image, str, int]:
        triplet = self.triplets[index]
        rng = random.Random(f"{self.seed}/{self.epoch}/{index}")
        text = training_text(triplet.captions, rng)
        assert triplet.target is not None
        reference, target = self.source[triplet.reference], self.source[triplet.target]
        return reference, target, text, self.target_ids[index]


def collate(
    items: list[tuple[Image, Image, str, int]],
) -> tuple[Image, Image, list[str], Tensor]:
    """Training items -> references, targets, B texts, target numbers [B]."""
    references, targets, texts, target_ids = zip(*items, strict=True)
    return (
        default_collate(list(references)),
        default_collate(list(targets)),
        list(texts),
        torch.tensor(target_ids),
    )
