"""What a fusion reports of one image and one text, as maps and words that a reader sees.

Shapes: L visual tokens ([CLS] first), h * w = L - 1 cells, T text tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gatedcir.visualize.maps import gate_map, patch_maps
from gatedcir.visualize.words import word_shares


class Explained(NamedTuple):
    """The parts that the fusion reports. What it does not report is None or empty."""

    gate: npt.NDArray[np.float32] | None
    """[h, w] in [0, 1]: how far the gate opens at each cell."""
    change: npt.NDArray[np.float32] | None
    """[h, w], 0 or more: how much the text changes each cell."""
    words: list[tuple[str, float]]
    """Each word's share of the attention, the mean over the cells."""


@dataclass(frozen=True)
class Explanation:
    """Why an image was found."""

    maps: Explained
    """The gate's map, the change's map and the words' shares, as far as the fusion reports them."""
    similarities: npt.NDArray[np.float32] | None = None
    """[Q]: the query's similarity to each feature of the found image. None without an image."""

    @property
    def token(self) -> int | None:
        """Which of the found image's Q features matched best. None without an image."""
        return None if self.similarities is None else int(self.similarities.argmax())


def explained(aux: Mapping[str, Tensor], words: Sequence[tuple[str, Sequence[int]]]) -> Explained:
    """The maps in the aux of a batch of one, and the text's words with the places of their tokens.

    Raises:
        ValueError: the patches do not form a square.
    """
    one = {name: value[0].float().cpu() for name, value in aux.items() if value.ndim > 1}
    shares: list[tuple[str, float]] = []
    if "text_attention" in one:
        names, found = word_shares(one["text_attention"][1:], words)  # the cells, without [CLS]
        shares = list(zip(names, found.mean(0).tolist(), strict=True))
    return Explained(
        gate=gate_map(one["gate"][None])[0].numpy() if "gate" in one else None,
        change=patch_maps(one["change_map"]).numpy() if "change_map" in one else None,
        words=shares,
    )
