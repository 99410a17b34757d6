"""Tensors -> maps over the image. Pure: no files, no figures.

Shapes: B batch, L = 1 + h * w visual tokens (CLS first), Dv vision width, H x W pixels.
"""

import math

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
    patches = gate[:, 1:].mean(-1)  # [B, h * w]
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1]:
        raise ValueError(f"{patches.shape[1]} patches do not form a square")
    return patches.unflatten(1, (side, side))


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Smooth maps over the pixels: [B, h, w] -> [B, H, W]."""
    return F.interpolate(maps[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]


def to_picture(pixels: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """A normalised image back to colours in [0, 1]: [3, H, W] -> [H, W, 3]."""
    colours = pixels * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    return colours.clamp(0, 1).permute(1, 2, 0)
