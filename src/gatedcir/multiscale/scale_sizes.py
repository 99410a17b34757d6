"""The check of input scales, and the size of an image at a scale."""

import itertools
import math
import warnings
from collections.abc import Sequence
from itertools import pairwise

SIMILAR = 1.15  # of two scales, below which the finer one shows little more; 1.25 and 1.5 are fine


def check_scales(scales: Sequence[float], *, at_least: int = 1) -> tuple[float, ...]:
    """The scales as a tuple, coarse to fine. Two that are too similar are warned of by name.

    Raises:
        ValueError: they do not ascend, are not positive or not finite, lack 1.0, or are fewer than
            `at_least`.
    """
    scales = tuple(float(scale) for scale in scales)
    if len(scales) < at_least:
        raise ValueError(f"scales {scales}: at least {at_least} are needed")
    limits = (0.0, *scales, math.inf)
    if not all(coarse < fine for coarse, fine in itertools.pairwise(limits)):  # NaN is refused too
        raise ValueError(f"scales {scales} must be positive, finite and ascend, coarse to fine")
    if 1.0 not in scales:
        raise ValueError(f"scales {scales} must hold 1.0, whose grid the others are fused on")
    for coarse, fine in pairwise(scales):
        if fine < SIMILAR * coarse:
            warnings.warn(
                f"scales {coarse} and {fine} are too similar to show different things: keep one of "
                f"them, or take scales that differ by a factor of {SIMILAR} or more",
                stacklevel=1,  # one place, so that it is said once
            )
    return scales


def warn_of_equal_sizes(scales: Sequence[float], size: tuple[int, int], multiple: int) -> None:
    """Warn by name of scales at which an image has the same size, after rounding."""
    for coarse, fine in pairwise(scales):
        found = scaled_size(size, coarse, multiple)
        if found == scaled_size(size, fine, multiple):
            warnings.warn(
                f"scales {coarse} and {fine} both read an image of {size[0]}x{size[1]} pixels at "
                f"{found[0]}x{found[1]}, so the second adds nothing: leave it out, or take larger "
                "images",
                stacklevel=1,
            )


def scaled_size(size: tuple[int, int], scale: float, multiple: int) -> tuple[int, int]:
    """Height and width in pixels at a scale: to the nearest multiple, and at least one multiple.

    A size halfway between two multiples goes to the smaller.

    >>> scaled_size((352, 352), 1.5, 32)  # 528
    (512, 512)
    >>> scaled_size((480, 640), 0.5, 32), scaled_size((20, 224), 0.5, 14)
    ((224, 320), (14, 112))

    Raises:
        ValueError: a number that is not positive.
    """
    if min(*size, scale, multiple) <= 0:
        raise ValueError(f"size {size}, scale {scale} and multiple {multiple} must be positive")
    # Round first, because the last bit of a product alone may put it past the middle.
    height, width = (math.ceil(round(side * scale / multiple, 6) - 0.5) for side in size)
    return max(1, height) * multiple, max(1, width) * multiple
