"""Functions for all visual fusions: token maps as pictures, resizing, channel attention.

Shapes: B batch, L visual tokens (one for the image, then the patches row by row), Dv vision width,
C channels, H and W height and width of a map.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HALVES = (torch.bfloat16, torch.float16)


def to_map(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B, 1 + H * H, Dv] -> the image's token [B, 1, Dv] and the patches [B, Dv, H, H].

    Raises:
        ValueError: the patches do not form a square.
    """
    side = math.isqrt(tokens.shape[1] - 1)
    if side * side != tokens.shape[1] - 1:
        raise ValueError(f"{tokens.shape[1] - 1} patches do not form a square")
    return tokens[:, :1], tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def to_tokens(cls_token: Tensor, patches: Tensor) -> Tensor:
    """The inverse of `to_map`.

    >>> tokens = torch.randn(2, 10, 4)
    >>> torch.equal(to_tokens(*to_map(tokens)), tokens)
    True
    """
    return torch.cat([cls_token, patches.flatten(2).transpose(1, 2)], dim=1)


def resize_positions(positions: Tensor, side: int, *, aligned: bool) -> Tensor:
    """Position embeddings of a square of patches for another: [1, 1 + side * side, Dv].

    Bicubic without antialiasing, as in published towers. `aligned` keeps those of the corners.
    """
    cls_token, grid = to_map(positions)
    if grid.shape[-1] == side:
        return positions
    grid = resize(grid, (side, side), mode="bicubic", aligned=aligned, antialias=False)
    return to_tokens(cls_token, grid)


def resize(
    maps: Tensor,
    size: tuple[int, int],
    *,
    mode: str = "bilinear",
    aligned: bool = False,
    antialias: bool = True,
) -> Tensor:
    """[B, C, h, w] -> [B, C, H, W] in the precision of the maps.

    Bilinear and bicubic maps that become smaller are antialiased, unless `antialias` is False.
    CPUs lack a kernel for half precision, so it is computed in float32 and rounded once.
    `aligned` keeps the centers of the corners in place instead of their outer edges.

    >>> half = torch.tensor([[[[1.0, 3.0, 5.0, 7.0]]]], dtype=torch.bfloat16)
    >>> resize(half, (1, 2))  # (3 * 1 + 3 * 3 + 5) / 7 and (3 + 3 * 5 + 3 * 7) / 7
    tensor([[[[2.4219, 5.5625]]]], dtype=torch.bfloat16)
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if mode == "nearest":
        return F.interpolate(maps, size=size, mode=mode)
    smaller = size[0] < maps.shape[-2] or size[1] < maps.shape[-1]
    antialias = antialias and smaller
    source = maps.float() if antialias and maps.dtype in _HALVES else maps
    resized = F.interpolate(
        source, size=size, mode=mode, align_corners=aligned, antialias=antialias
    )
    return resized.to(maps.dtype)


def check_name(kind: str, name: str, valid: Iterable[str]) -> None:
    """Raise a ValueError that lists the valid names unless `name` is one of them."""
    names = list(valid)
    if name not in names:
        raise ValueError(f"unknown {kind} {name!r}: it must be one of {', '.join(names)}")


class ChannelAttention(nn.Module):
    """Weights in (0, 1), one a channel, from the average of the map.

    Squeeze-and-excitation (Hu et al., CVPR 2018): [B, C, H, W] -> [B, C, 1, 1].
    """

    def __init__(
        self, channels: int, *, reduction: int = 4, activation: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            activation(),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """The weight of each channel, to be multiplied with the map."""
        return self.layers(maps.mean((2, 3), keepdim=True))


class SpatialAttention(nn.Module):
    """Weights in (0, 1), one a position, from mean and maximum over the channels.

    CBAM (Woo et al., ECCV 2018): [B, C, H, W] -> [B, 1, H, W].
    """

    def __init__(self, *, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2)

    def forward(self, maps: Tensor) -> Tensor:
        """The weight of each position, to be multiplied with the map."""
        pooled = torch.cat([maps.mean(1, keepdim=True), maps.amax(1, keepdim=True)], dim=1)
        return torch.sigmoid(self.conv(pooled))
