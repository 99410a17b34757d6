"""Pooling over windows, and over bins, of several sizes.

Shapes: B batch, C channels, H and W height and width of a map, P pool sizes.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedcir.multiscale.maps import check_name, resize


def _average(x: Tensor, kernel: int) -> Tensor:
    # Only pixels of the map count, so a constant map stays constant up to its border.
    return F.avg_pool2d(x, kernel, stride=1, padding=kernel // 2, count_include_pad=False)


def _maximum(x: Tensor, kernel: int) -> Tensor:
    return F.max_pool2d(x, kernel, stride=1, padding=kernel // 2)


WINDOWS: dict[str, Callable[[Tensor, int], Tensor]] = {"avg": _average, "max": _maximum}
BINS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "avg": F.adaptive_avg_pool2d,
    "max": F.adaptive_max_pool2d,
}


def _check_sizes(pool_sizes: Sequence[int]) -> list[int]:
    if not pool_sizes or min(pool_sizes) < 1:
        raise ValueError(f"pool_sizes must be numbers from 1, at least one, not {pool_sizes}")
    return list(pool_sizes)


class MultiScalePooling(nn.Module):
    """The map seen through windows of several sizes: [B, C, H, W] -> [B, P * C, H, W].

    The windows move by one pixel, so that every result keeps the map's size and they can be
    concatenated. The window of size k at pixel i covers i - k // 2 to i + (k - 1) // 2, as far as
    the map reaches. Size 1 is the map itself.

    Args:
        pool_sizes: sides of the windows, in pixels.
        pool_type: "avg" or "max".

    Raises:
        ValueError: the pool type is unknown; a size is below 1.
    """

    def __init__(self, pool_sizes: Sequence[int] = (1, 2, 3, 6), pool_type: str = "avg") -> None:
        super().__init__()
        check_name("pool type", pool_type, WINDOWS)
        self.pool_sizes = _check_sizes(pool_sizes)
        self.pool_type = pool_type

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, P * C, H, W], all channels of the first size first."""
        height, width = x.shape[-2:]
        pool = WINDOWS[self.pool_type]
        # An even window gives one more position along each side. The last one is left out.
        return torch.cat([pool(x, size)[..., :height, :width] for size in self.pool_sizes], dim=1)


class PyramidPooling(nn.Module):
    """Context from coarse grids, added to every pixel: [B, in, H, W] -> [B, out, H, W].

    This is the pyramid pooling of PSPNet (Zhao et al., CVPR 2017). It averages over size x size
    bins, reduces each grid to in / P channels and resizes it to the map's size. The grids are
    concatenated with the map and mixed by a 1x1 convolution. Batch normalisation is left out,
    because one bin of one image has no variance.

    Args:
        in_channels: channels of the map.
        out_channels: channels of the result.
        pool_sizes: sides of the grids, in bins. Grids finer than the map are allowed.

    Raises:
        ValueError: a size is below 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, pool_sizes: Sequence[int] = (1, 2, 3, 6)
    ) -> None:
        super().__init__()
        self.pool_sizes = _check_sizes(pool_sizes)
        reduced = max(1, in_channels // len(self.pool_sizes))
        self.reductions = nn.ModuleList(
            nn.Sequential(nn.Conv2d(in_channels, reduced, 1), nn.ReLU()) for _ in self.pool_sizes
        )
        self.mix = nn.Conv2d(in_channels + reduced * len(self.pool_sizes), out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H, W]."""
        height, width = x.shape[-2:]
        context = [
            resize(reduce(F.adaptive_avg_pool2d(x, size)), (height, width))
            for size, reduce in zip(self.pool_sizes, self.reductions, strict=True)
        ]
        return self.mix(torch.cat([x, *context], dim=1))


class SpatialPyramidPooling(nn.Module):
    """A vector of the same length for maps of every size (He et al., ECCV 2014).

    Level i divides the map into 2^i x 2^i bins: [B, C, H, W] -> [B, C * (4^levels - 1) / 3].

    Args:
        num_levels: levels 0 to `num_levels` - 1. Three levels give 1 + 4 + 16 bins.
        pool_type: "avg" or "max".

    Raises:
        ValueError: the pool type is unknown; there is no level.
    """

    def __init__(self, num_levels: int = 3, pool_type: str = "max") -> None:
        super().__init__()
        check_name("pool type", pool_type, BINS)
        if num_levels < 1:
            raise ValueError(f"num_levels must be at least 1, not {num_levels}")
        self.num_levels = num_levels
        self.pool_type = pool_type

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the coarsest level first, each channel by channel and row by row."""
        pool = BINS[self.pool_type]
        return torch.cat([pool(x, 2**level).flatten(1) for level in range(self.num_levels)], dim=1)
