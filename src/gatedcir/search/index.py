"""The interfaces of indexes: they rank images, each stored as several token features, for a query.

An `Index` lives in memory and serves the evaluation. A `StoredIndex` lives in a folder and outlives
its process. Legend: B images of a batch, Q token features of an image, E embedding width,
M queries, P parts of a query, K kept, S chosen images of a query.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch

from gatedcir.benchmarks.ranks import Indices

Floats = npt.NDArray[np.float32]
Features = torch.Tensor | npt.NDArray[np.floating]


class Index(Protocol):
    """The similarity of a query to an image is the best inner product with any of its features."""

    def __len__(self) -> int:
        """How many images there are."""

    def add(self, features: Features) -> None:
        """Append images [B, Q, E]. The first image added has the gallery index 0."""

    def search(self, queries: Features, k: int) -> tuple[Floats, Indices]:
        """Scores [M, K] and gallery indices [M, K], best first, equal scores by gallery index."""

    def similarity(self, queries: Features, images: Indices) -> Floats:
        """The similarity of every query [M, E] to chosen images [M, S]: [M, S]."""


class Form(NamedTuple):
    """The shape and the precision of the features of a stored index."""

    tokens: int
    """Q."""
    dim: int
    """E."""
    precision: str
    """fp16 or fp32, on the disk."""

    def check(self, features: Features, images: int) -> None:
        """ValueError if the features of so many images have another shape."""
        if tuple(features.shape) != (images, self.tokens, self.dim):
            expected = (images, self.tokens, self.dim)
            raise ValueError(f"features are {tuple(features.shape)}, not {expected}")

    def check_query(self, queries: Features, k: int) -> None:
        """ValueError if the queries are not [M, P, E], or if no image is asked for."""
        if queries.ndim != 3 or queries.shape[2] != self.dim:
            raise ValueError(f"queries are {tuple(queries.shape)}, not [M, P, {self.dim}]")
        if k < 1:
            raise ValueError(f"k is {k}, but at least one image must be asked for")


class Settings(Protocol):
    """What only one kind of stored index asks for. A file of its folder holds it."""

    kind: ClassVar[str]
    meant: ClassVar[str]
    """What it says, for messages."""

    def write(self, folder: Path) -> None:
        """Note it in an index's folder, before the index is made."""

    def noted(self) -> dict[str, Any]:
        """What two indexes that are made alike have in common."""


class StoredIndex(Protocol):
    """Features of images in a folder, by numbers that never change.

    A query has P parts of norm 1. Its similarity to an image is the mean over the parts of the best
    inner product with any of the image's features. With one part this is the similarity of `Index`.
    Reading is safe from several threads.
    """

    form: Form
    damaged: dict[Path, str]
    """Files that cannot be read, and why. Their images are left out."""

    @classmethod
    def open(cls, folder: Path, form: Form, *, writable: bool = False) -> Self:
        """The index in a folder. It is made if it is missing and may be written."""

    def entries(self) -> dict[int, str]:
        """The number of every image that can be searched, and the digest of its content."""

    def add(self, numbers: Sequence[int], digests: Sequence[str], features: Features) -> None:
        """Append images [B, Q, E]. They are on the disk when this returns."""

    def remove(self, numbers: Sequence[int]) -> None:
        """Delete images, and give their room back."""

    def search(
        self, queries: Features, k: int, among: Indices | None = None
    ) -> tuple[Floats, Indices]:
        """Scores [M, K] and numbers [M, K] of images, best first, equal scores by number.

        Args:
            queries: [M, P, E].
            k: K. If there are fewer images, the rest of a row is -inf and -1.
            among: the images to rank, by number. None means all.
        """

    def features(self, numbers: Sequence[int]) -> Floats:
        """The features of some images: [B, Q, E]. KeyError if one is not there."""

    def save(self) -> None:
        """Tidy up after many additions. Everything that was added is on the disk already."""

    def refresh(self) -> None:
        """Notice what another process has changed."""

    def check(self) -> None:
        """Read everything. What is found to be damaged is then in `damaged`."""

    def close(self) -> None:
        """Give files and locks back."""

    def info(self) -> dict[str, Any]:
        """Figures for a reader."""
