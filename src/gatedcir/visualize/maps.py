"""Tensors -> maps over the image. Pure: no files, no figures.

Shapes: B batch, L = 1 + h * w visual tokens (CLS first), Dv vision width, H x W pixels.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor


def gate_map(gate: Tensor) -> Tensor:
    """How far the gate opens at each patch, averaged over channels: [B, L, Dv] -> [B, h, w].

    Raises:
        ValueError: the patches do not form a square.

    >>> gate_map(torch.tensor([[[9.0], [0.0], [0.2], [0.4], [1.0]]])).tolist()
    [[[0.0, 0.20000000298023224], [0.4000000059604645, 1.0]]]
    """
    return patch_maps(gate.mean(-1))


def patch_maps(values: Tensor) -> Tensor:
    """A value for each token, laid out as the image: [..., L] -> [..., h, w], without the CLS.

    Raises:
        ValueError: the patches do not form a square.
    """
    return _square(values[..., 1:])


def _square(patches: Tensor) -> Tensor:
    """[..., h * w] -> [..., h, w]."""
    side = math.isqrt(patches.shape[-1])
    if side * side != patches.shape[-1]:
        raise ValueError(f"{patches.shape[-1]} patches do not form a square")
    return patches.unflatten(-1, (side, side))


def feature_map(tokens: Tensor) -> Tensor:
    """The first principal component of the patches, their greatest difference: [L, Dv] -> [h, w].

    The unit is the standard deviation over the patches. The map is 0 if all patches are equal. A
    component has no sign. We choose the sign that makes the values of few, unusual patches high.
    The mean over channels is not useful, because a LayerNorm makes it nearly the same everywhere.

    Raises:
        ValueError: the patches do not form a square.

    >>> feature_map(torch.tensor([[9.0, 9.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, -4.0]]))
    tensor([[-0.5774, -0.5774],
            [-0.5774,  1.7321]])
    """
    patches = tokens[1:].float()
    patches = patches - patches.mean(0)
    values, vectors = torch.linalg.eigh(patches @ patches.T)  # [h * w], [h * w, h * w]
    # Rounding leaves equal patches with a spread of about a millionth of their size.
    if values[-1] <= 1e-10 * tokens.float().square().sum():
        return _square(torch.zeros_like(values))
    scores = vectors[:, -1] * len(patches) ** 0.5  # of norm 1, mean 0
    scores = scores * (1 if scores.pow(3).sum() >= 0 else -1)
    return _square(scores)


ONE_VECTOR = 1e-4
"""The share of a delta's square that must differ from place to place. Less is rounding in bf16."""


def is_one_vector(delta: Tensor) -> bool:
    """Whether a direction [L or 1, Dv] is the same at all places.

    >>> is_one_vector(torch.ones(1, 2)), is_one_vector(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    (True, False)
    """
    delta = delta.float()
    apart = (delta - delta.mean(0)).square().sum()
    return bool(apart <= ONE_VECTOR * delta.square().sum())


def cosine_map(delta: Tensor, wanted: Tensor) -> Tensor:
    """The cosine at each patch of a direction and the wanted one: [L, Dv] twice -> [h, w].

    >>> delta = torch.tensor([[9.0, 9.0], [1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    >>> cosine_map(delta, torch.tensor([[1.0, 1.0], [5.0, 0.0], [0.0, 1.0], [0.0, -1.0], [1, 1]]))
    tensor([[ 1.,  0.],
            [-1.,  0.]])
    """
    return patch_maps(F.cosine_similarity(delta.float(), wanted.float(), dim=-1))


class MapNumbers(NamedTuple):
    """What a map's cells hold."""

    least: float
    mean: float
    most: float
    over_half: float
    """The share of the cells with more than 0.5."""

    def __format__(self, form: str) -> str:
        """Least and greatest value, and below them the mean."""
        return f"min {self.least:{form}}, max {self.most:{form}}\nmean {self.mean:{form}}"


def map_numbers(values: npt.ArrayLike) -> MapNumbers:
    """The numbers of a map.

    >>> map_numbers([[0.0, 0.5], [0.75, 0.75]])
    MapNumbers(least=0.0, mean=0.5, most=0.75, over_half=0.5)
    """
    cells = np.asarray(values, dtype=float)
    return MapNumbers(
        float(cells.min()), float(cells.mean()), float(cells.max()), float((cells > 0.5).mean())
    )


def rounded_up(value: float) -> float:
    """The end of a scale: the next number with one digit that is not below a value. 1 for 0.

    >>> [rounded_up(value) for value in (0.0, 0.02, 0.021, 0.28, 1.0, 9.5)]
    [1.0, 0.02, 0.03, 0.3, 1.0, 10.0]
    """
    if not value > 0:
        return 1.0
    power = math.floor(math.log10(value))
    ends = (float(f"{digit}e{power}") for digit in range(1, 11))
    return next(end for end in ends if end >= value)


def to_picture(pixels: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """A normalised image back to colours in [0, 1]: [3, H, W] -> [H, W, 3]."""
    colours = pixels * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    return colours.clamp(0, 1).permute(1, 2, 0)
