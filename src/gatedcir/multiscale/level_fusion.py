"""Fuse maps of several levels: reduce and concatenate, add with weights, weigh every channel.

This module has three strategies of multi-level fusion on maps [B, C_i, H, W]. It also aligns maps
that differ in size or width. Every strategy returns a map and aux. `list_fusion` has them as
functions of a list alone. Shapes: B batch, N levels, C channels, H and W height and width.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedcir.multiscale.maps import resize
from gatedcir.start import Aux

Down = Literal["max", "antialias"]


def check_levels(levels: Sequence[Tensor], widths: Sequence[int], *, axis: int) -> None:
    """Check that levels have these widths along an axis and agree in every other size.

    Raises:
        ValueError: another number of levels, other widths, or unequal sizes.
    """
    found = [level.shape[axis] for level in levels]
    if found != list(widths):
        raise ValueError(f"levels of the widths {found} in a fusion of the widths {list(widths)}")
    shapes = [tuple(level.shape) for level in levels]
    others = [shape[:axis] + shape[axis:][1:] for shape in shapes]
    if any(other != others[0] for other in others[1:]):  # no set: an export has symbols for sizes
        raise ValueError(f"levels of unequal sizes {shapes}: align them first")


def match_size(maps: Tensor, size: tuple[int, int], *, down: Down = "max") -> Tensor:
    """[B, C, h, w] -> [B, C, H, W]: bilinear where the map grows.

    Where it shrinks, `down` decides: "max" keeps the largest value under each new position, and
    "antialias" averages.

    Raises:
        ValueError: `down` is no way to shrink a map.

    >>> match_size(torch.tensor([[[[1.0, 5.0], [2.0, 3.0]]]]), (1, 2))
    tensor([[[[2., 5.]]]])
    """
    _check_down(down)
    if down == "max":
        smaller = (min(maps.shape[-2], size[0]), min(maps.shape[-1], size[1]))
        if smaller != tuple(maps.shape[-2:]):
            maps = F.adaptive_max_pool2d(maps, smaller)
    return resize(maps, size)


def _check_down(down: str) -> None:
    if down not in ("max", "antialias"):
        raise ValueError(f"down={down!r} is neither 'max' nor 'antialias'")


class Align(nn.Module):
    """Bring maps to one size and one width: first the size, then a 1x1 convolution.

    A map that has the width already skips the convolution, so that aligned maps stay as they are.

    Raises:
        ValueError: `down` is no way to shrink a map.
    """

    def __init__(self, *, channels: Sequence[int], width: int, down: Down = "max") -> None:
        super().__init__()
        _check_down(down)
        self.down = down
        self.projections = nn.ModuleList(
            nn.Identity() if count == width else nn.Conv2d(count, width, 1) for count in channels
        )

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int] | None = None) -> list[Tensor]:
        """N maps [B, C_i, H_i, W_i] -> N maps [B, width, H, W], of the first's size by default.

        Raises:
            ValueError: another number of maps than the module has widths.
        """
        if len(maps) != len(self.projections):
            raise ValueError(f"{len(maps)} maps, and an alignment of {len(self.projections)}")
        height, width = size or maps[0].shape[-2:]
        return [
            projection(match_size(level, (height, width), down=self.down))
            for projection, level in zip(self.projections, maps, strict=True)
        ]


class ConcatFusion(nn.Module):
    """Each level through a 1x1 convolution and ReLU to `reduced` channels, then side by side.

    Raises:
        ValueError: no levels, or `reduced` is not positive.
    """

    def __init__(self, *, channels: Sequence[int], reduced: int = 64) -> None:
        super().__init__()
        if not channels or reduced < 1:
            raise ValueError(f"levels of the widths {list(channels)} reduced to {reduced} channels")
        self.channels = tuple(channels)
        self.out_channels = reduced * len(self.channels)
        self.reductions = nn.ModuleList(nn.Conv2d(count, reduced, 1) for count in channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """N maps [B, C_i, H, W] -> [B, N * reduced, H, W], and an empty aux.

        Raises:
            ValueError: the maps are not those of the constructor, or differ in size.
        """
        check_levels(maps, self.channels, axis=1)
        pairs = zip(self.reductions, maps, strict=True)
        return torch.cat([F.relu(reduction(level)) for reduction, level in pairs], dim=1), {}


class WeightedSumFusion(nn.Module):
    """Levels added, each times a weight in (0, 1) from its own average: sigmoid(w_i . mean_i).

    Raises:
        ValueError: levels of unequal widths.
    """

    def __init__(self, *, channels: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = _one_width(channels)
        self.channels = tuple(channels)
        self.scores = nn.ModuleList(nn.Linear(count, 1, bias=False) for count in channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """N maps [B, C, H, W] -> [B, C, H, W], and aux: `layer_weights` [B, N].

        Raises:
            ValueError: the maps are not those of the constructor, or differ in size.
        """
        check_levels(maps, self.channels, axis=1)
        pairs = zip(self.scores, maps, strict=True)
        scores = torch.cat([score(level.mean((2, 3))) for score, level in pairs], dim=1)
        weights = torch.sigmoid(scores)  # [B, N]
        fused = sum(weights[:, i, None, None, None] * level for i, level in enumerate(maps))
        assert isinstance(fused, Tensor)
        return fused, {"layer_weights": weights}


class ChannelAttentionFusion(nn.Module):
    """Every channel of every level weighed by one softmax over them all, from their averages.

    The weighted levels are added. The softmax shares 1 among all N * C channels, so each channel
    gets about 1 / (N * C). This share is multiplied by C. Even weights then give the mean of the
    levels, instead of values too small for the next layers. `sum_channels=True` adds up all
    weighted channels into a single one without this factor, for levels of any widths.

    Raises:
        ValueError: levels of unequal widths without `sum_channels`.
    """

    def __init__(self, *, channels: Sequence[int], sum_channels: bool = False) -> None:
        super().__init__()
        self.out_channels = 1 if sum_channels else _one_width(channels)
        self.channels = tuple(channels)
        self.sum_channels = sum_channels
        self.scores = nn.Linear(sum(self.channels), sum(self.channels))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """N maps [B, C_i, H, W] -> [B, C, H, W], or [B, 1, H, W] with `sum_channels`.

        Returns:
            The map, and aux: `channel_weights` [B, sum of C_i], which add up to 1, and
            `layer_weights` [B, N], the sum of each level's.

        Raises:
            ValueError: the maps are not those of the constructor, or differ in size.
        """
        check_levels(maps, self.channels, axis=1)
        pooled = torch.cat([level.mean((2, 3)) for level in maps], dim=1)
        weights = self.scores(pooled).softmax(-1)  # [B, sum of C_i]
        shares = weights.split(self.channels, dim=1)
        aux = {
            "channel_weights": weights,
            "layer_weights": torch.stack([share.sum(1) for share in shares], dim=1),
        }
        weighted = [
            share[..., None, None] * level for share, level in zip(shares, maps, strict=True)
        ]
        if self.sum_channels:
            return torch.cat(weighted, dim=1).sum(1, keepdim=True), aux
        return torch.stack(weighted).sum(0) * self.out_channels, aux


def _one_width(channels: Sequence[int]) -> int:
    if len(set(channels)) != 1:
        raise ValueError(f"levels of the widths {list(channels)} cannot be added: align them")
    return channels[0]
