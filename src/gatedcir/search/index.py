"""The interface of an index: it ranks images, each stored as several token features, for a query.

Legend: B images of a batch, Q token features of an image, E embedding width, M queries, K kept,
S chosen images of a query.
"""

from typing import Protocol

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
