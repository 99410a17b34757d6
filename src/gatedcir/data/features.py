"""Images as the model reads them: pixels from files, or the frozen tower's features.

Shapes: B batch, U distinct images of a batch, L visual tokens, Dv vision width, H x W pixels.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from gatedcir.data.readable import UnreadableImageError, all_unreadable_told
from gatedcir.data.transforms import Transform
from gatedcir.data.triplets import Triplet, training_text
from gatedcir.errors import UserError

Image = Tensor | list[Tensor]
"""Pixels [3, H, W], or one feature map [L, Dv] a layer; with a leading B for a batch."""


Encoder = Callable[[Tensor], list[Tensor]]
"""Pixels [B, 3, H, W] -> one [B, L, Dv] a layer."""


class Source(Protocol):
    """Where images come from, by name."""

    reads_files: ClassVar[bool]
    """Whether worker processes help."""

    @property
    def on_gpu(self) -> bool:
        """Whether its tensors are on an accelerator already."""

    def __getitem__(self, name: str, /) -> Image: ...


@dataclass(frozen=True)
class PixelSource:
    """Reads and transforms an image whenever it is asked for.

    `list_folder` is where a list of unreadable images goes, a temporary folder when not given.
    """

    reads_files: ClassVar[bool] = True
    on_gpu: ClassVar[bool] = False
    paths: dict[str, Path]
    transform: Transform
    list_folder: Path | None = None

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.transform(self.transform.open(self.paths[name]))
        except UserError as error:
            raise UnreadableImageError(str(error)) from error


@dataclass(frozen=True)
class FeatureSource:
    """Holds the tower's features of every image in memory, the CPU's or an accelerator's."""

    reads_files: ClassVar[bool] = False
    rows: dict[str, int]
    levels: list[Tensor]  # one [images, L, Dv] a layer

    def __getitem__(self, name: str) -> list[Tensor]:
        return [level[self.rows[name]] for level in self.levels]

    @property
    def on_gpu(self) -> bool:
        """Whether an accelerator holds them."""
        return self.levels[0].device.type != "cpu"

    def to(self, device: torch.device) -> "FeatureSource":
        """The same features in another memory."""
        return FeatureSource(self.rows, [level.to(device) for level in self.levels])


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
    """The images of `names` in order, B at a time.

    Raises UserError that names all images of the source that cannot be read, if it meets one.
    """
    loader = DataLoader(
        _Images(source, names),
        batch_size,
        num_workers=num_workers if source.reads_files else 0,
        pin_memory=torch.cuda.is_available() and not source.on_gpu,
    )
    if not isinstance(source, PixelSource):
        return iter(loader)
    return _told(loader, source, num_workers)


def _told(loader: DataLoader, source: PixelSource, num_workers: int) -> Iterator[Image]:
    with all_unreadable_told(
        set(source.paths.values()), num_workers=num_workers, folder=source.list_folder
    ):
        yield from loader


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
    return tqdm(total=images, desc="vision features", unit="img", disable=not show)


class Batch(NamedTuple):
    """B triplets, and their images without repetition."""

    images: Image  # [U, ...]
    references: Tensor  # [B], which of the images
    targets: Tensor  # [B], likewise
    texts: list[str]
    target_ids: Tensor  # [B], equal for equal targets, in all batches alike

    @classmethod
    def all_different(cls, images: Image, texts: list[str]) -> "Batch":
        """B triplets that share no image, from B references and then B targets."""
        references, targets = torch.arange(2 * len(texts)).chunk(2)
        return cls(images, references, targets, texts, torch.arange(len(texts)))


class TripletDataset(Dataset):
    """Training triplets by the batch: a list of indices gives a `Batch`.

    Every image is read once a batch, however many of its triplets show it. A triplet's text is
    drawn anew every epoch, from the seed, the epoch and its index alone, so that a resumed run
    draws what an uninterrupted one does.
    """

    def __init__(self, triplets: Sequence[Triplet], source: Source, *, seed: int) -> None:
        self.triplets, self.source, self.seed = triplets, source, seed
        self.epoch = 0
        numbers: dict[str | None, int] = {}
        self.target_ids = [numbers.setdefault(t.target, len(numbers)) for t in triplets]

    @property
    def reads_files(self) -> bool:
        """Whether items are read from files, so that worker processes help."""
        return self.source.reads_files

    def __len__(self) -> int:
        return len(self.triplets)

    def __getitem__(self, indices: list[int]) -> Batch:
        places: dict[str, int] = {}
        references, targets = [], []
        for triplet in (self.triplets[index] for index in indices):
            assert triplet.target is not None
            references.append(places.setdefault(triplet.reference, len(places)))
            targets.append(places.setdefault(triplet.target, len(places)))
        return Batch(
            images=default_collate([self.source[name] for name in places]),
            references=torch.tensor(references),
            targets=torch.tensor(targets),
            texts=[self._text(index) for index in indices],
            target_ids=torch.tensor([self.target_ids[index] for index in indices]),
        )

    def _text(self, index: int) -> str:
        rng = random.Random(f"{self.seed}/{self.epoch}/{index}")
        return training_text(self.triplets[index].captions, rng)
