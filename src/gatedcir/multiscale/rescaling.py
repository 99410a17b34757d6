"""A map at several scales, and back: list of scales, one factor, or halving level by level.

Shapes: B batch, C channels, H and W height and width of a map, S scales.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from gatedcir.multiscale.last_call import Found, LastCall
from gatedcir.multiscale.maps import check_name, resize

Size = tuple[int, int]
MODES = ("nearest", "bilinear", "bicubic")


def scaled(size: tuple[int, ...], scale: float) -> tuple[int, int]:
    """Height and width times the scale, halves rounded up, at least one pixel.

    >>> scaled((7, 8), 0.5), scaled((2, 3), 0.1)
    ((4, 4), (1, 1))
    """
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


def distinct_scales(scales: Sequence[float]) -> list[float]:
    """The scales as a list.

    Raises:
        ValueError: there is none, one is not above 0, or one is there twice.
    """
    found = list(scales)
    if not found or min(found) <= 0 or len(set(found)) < len(found):
        raise ValueError(f"scales must be different numbers above 0, at least one, not {found}")
    return found


def main_scale(scales: Sequence[float]) -> int:
    """Index of the scale nearest to 1. Its map sets the size of the fused map.

    >>> main_scale([0.25, 1.0, 2.0]), main_scale([0.5, 1.5])
    (1, 0)
    """
    return min(range(len(scales)), key=lambda index: abs(scales[index] - 1))


class MultiScaleTransform(nn.Module):
    """[B, C, H, W] -> one map a scale. Smaller maps are antialiased, except with "nearest".

    Args:
        scales: factors for height and width.
        mode: "nearest", "bilinear" or "bicubic".

    Raises:
        ValueError: the mode is unknown; the scales are not different numbers above 0.
    """

    def __init__(self, scales: Sequence[float] = (1.0, 0.5, 0.25), mode: str = "bilinear") -> None:
        super().__init__()
        check_name("interpolation mode", mode, MODES)
        self.scales = distinct_scales(scales)
        self.mode = mode

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> S maps [B, C, h, w] of `scaled` size. At scale 1 the input itself."""
        return [resize(x, scaled(x.shape[-2:], scale), mode=self.mode) for scale in self.scales]

    def inverse(self, x: Sequence[Tensor], original_size: tuple[int, int]) -> list[Tensor]:
        """S maps [B, C, h, w] -> S maps [B, C, H, W] of the original size.

        Only the size comes back. Details that the smaller maps have lost stay lost.
        """
        return [resize(maps, original_size, mode=self.mode) for maps in x]


class Rescale(nn.Module):
    """[B, C, H, W] -> [B, C, h, w], both sides times one factor, and back.

    The module remembers the two sizes of the last `forward`, so that `inverse` gives back exactly
    the size that was rounded: 7 -> 4 -> 7.

    >>> import torch
    >>> rescale = Rescale(0.5)
    >>> rescale.inverse(rescale(torch.ones(1, 1, 7, 9))).shape
    torch.Size([1, 1, 7, 9])

    Args:
        scale_factor: the factor for height and width.
        mode: "nearest", "bilinear" or "bicubic".

    Raises:
        ValueError: the mode is unknown; the factor is not above 0.
    """

    def __init__(self, scale_factor: float = 0.5, mode: str = "bilinear") -> None:
        super().__init__()
        check_name("interpolation mode", mode, MODES)
        if scale_factor <= 0:
            raise ValueError(f"scale_factor must be above 0, not {scale_factor}")
        self.scale_factor = scale_factor
        self.mode = mode
        self._last: tuple[Size, Size] | None = None  # from, to

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, h, w] of `scaled` size."""
        height, width = x.shape[-2:]
        size = scaled((height, width), self.scale_factor)
        self._last = (height, width), size
        return resize(x, size, mode=self.mode)

    def inverse(self, x: Tensor, original_size: tuple[int, int] | None = None) -> Tensor:
        """[B, C, h, w] -> [B, C, H, W].

        Without `original_size`, a map of the size that the last `forward` gave gets the size that
        it took. For other maps the sides are divided by the factor.
        """
        size = original_size
        if size is None and self._last is not None and self._last[1] == tuple(x.shape[-2:]):
            size, _ = self._last
        size = size or scaled(x.shape[-2:], 1 / self.scale_factor)
        return resize(x, size, mode=self.mode)


class PyramidDownsample(LastCall):
    """[B, C, H, W] -> the map and its halves, each made from the one before.

    Args:
        num_levels: how many maps, the input among them.
        mode: "nearest", "bilinear" or "bicubic".

    Raises:
        ValueError: the mode is unknown; there is no level.
    """

    def __init__(self, num_levels: int = 3, mode: str = "bilinear") -> None:
        super().__init__()
        check_name("interpolation mode", mode, MODES)
        if num_levels < 1:
            raise ValueError(f"num_levels must be at least 1, not {num_levels}")
        self.num_levels = num_levels
        self.mode = mode

    def compute(self, x: Tensor) -> tuple[list[Tensor], Found]:
        """[B, C, H, W] -> levels [B, C, ceil(H / 2^i), ceil(W / 2^i)], the finest first."""
        levels = [x]
        while len(levels) < self.num_levels:
            finer = levels[-1]
            levels.append(resize(finer, scaled(finer.shape[-2:], 0.5), mode=self.mode))
        return levels, {"levels": levels}

    def get_level(self, level: int, x: Tensor | None = None) -> Tensor:
        """Level 0 (the input itself) to `num_levels` - 1 of `x`, or of the last call's input.

        Raises:
            ValueError: there is no such level.
            RuntimeError: no `x` is given and nothing has been called (see `LastCall`).
        """
        if not 0 <= level < self.num_levels:
            raise ValueError(f"there is no level {level}: levels are 0 to {self.num_levels - 1}")
        return self.found("levels", x)[level]
