"""Images as the model reads them: pixels from files, or the frozen tower's features.

Shapes: B batch, U distinct images of a batch, L visual tokens, Dv vision width, H x W pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gatedcir.data.readable import UnreadableImageError, all_unreadable_told
from gatedcir.data.transforms import Transform
from gatedcir.errors import UserError
from gatedcir.visual import Visual


class Source(Protocol):
    """A source of images by name."""

    reads_files: ClassVar[bool]
    """Whether worker processes help."""

    @property
    def on_gpu(self) -> bool:
        """Whether its tensors are on an accelerator already."""

    def __getitem__(self, name: str, /) -> Visual: ...


@dataclass(frozen=True)
class PixelSource:
    """Reads and transforms an image whenever it is asked for.

    A list of unreadable images goes to `list_folder`, or else to a temporary folder.
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

    def __getitem__(self, index: int) -> Visual:
        return self.source[self.names[index]]


def batches(
    source: Source, names: Sequence[str], *, batch_size: int, num_workers: int
) -> Iterator[Visual]:
    """The images of `names` in order, B at a time.

    After one unreadable image, raises a UserError that names all unreadable ones of the source.
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


def _told(loader: DataLoader, source: PixelSource, num_workers: int) -> Iterator[Visual]:
    with all_unreadable_told(
        set(source.paths.values()), num_workers=num_workers, folder=source.list_folder
    ):
        yield from loader
