"""From an image file to a normalised tensor, with Pillow and torch alone."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gatedcir.data.pictures import READING, open_image, to_rgb
from gatedcir.errors import UserError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
AFFORDABLE = 2**25  # pixels, 128 MiB
MOST_PIXELS = 2**13  # of a side of the model's input


def target_padding(width: int, height: int, target_ratio: float) -> tuple[int, int]:
    """Pixels on each side (left and right, top and bottom) that bring the ratio to `target_ratio`.

    Images below that ratio stay as they are. Source: TargetPad of CLIP4Cir (Baldrati et al., 2022).

    >>> target_padding(200, 100, 1.25), target_padding(110, 100, 1.25)
    ((0, 30), (0, 0))
    """
    longest = max(width, height)
    if longest / min(width, height) < target_ratio:
        return 0, 0
    wanted = longest / target_ratio
    return int(max((wanted - width) / 2, 0)), int(max((wanted - height) / 2, 0))


def square_padding(width: int, height: int, target_ratio: float) -> tuple[int, int]:
    """Pixels on each side (left and right, top and bottom) that make the image a square.

    The ratio is not used. An odd difference leaves the square one pixel short, as published.

    >>> square_padding(101, 200, 1.25)
    (49, 0)
    """
    longest = max(width, height)
    return (longest - width) // 2, (longest - height) // 2


def no_padding(width: int, height: int, target_ratio: float) -> tuple[int, int]:
    """No pixels, because CLIP's own transform crops the rest."""
    return 0, 0


TRANSFORMS: dict[str, Callable[[int, int, float], tuple[int, int]]] = {
    "targetpad": target_padding,
    "squarepad": square_padding,
    "clip": no_padding,
}


@dataclass(frozen=True)
class Transform:
    """Pad, resize the shorter side, crop the centre, normalise: [3, size, size] float32.

    Its `repr` names every setting, so that it can be part of a cache key.
    """

    kind: str
    size: int
    target_ratio: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    draft: bool = False
    reading: int = field(default=READING, init=False)

    def open(self, path: Path) -> Image.Image:
        """The image in a file, as `open_image`. A draft has at least twice the input's side."""
        return open_image(path, at_least=2 * self.size if self.draft else None)

    def __call__(self, image: Image.Image) -> Tensor:
        """An image of any mode and size to [3, size, size] float32, normalised."""
        square = self.square(image)
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)  # [3, size, size] uint8
        mean = torch.tensor(self.mean).view(3, 1, 1)
        std = torch.tensor(self.std).view(3, 1, 1)
        return pixels.contiguous().float().div_(255).sub_(mean).div_(std)  # [3, size, size]

    def square(self, image: Image.Image) -> Image.Image:
        """An image of any mode and size, padded, resized and cropped: size x size pixels in RGB.

        A second pass leaves the result as it is. Memory is bounded by the sizes of the image and of
        the result, for any aspect ratio.
        """
        # RGB comes first. To pad or interpolate palette indices or alpha would give false colours.
        image = image if image.mode == "RGB" else to_rgb(image)
        padding = TRANSFORMS[self.kind](*image.size, self.target_ratio)
        return _pad_resize_crop(image, padding, self.size)

    def boxes(
        self, boxes: Iterable[tuple[float, float, float, float]], size: tuple[int, int]
    ) -> list[tuple[float, float, float, float]]:
        """Where boxes of an image of `size` (width, height) are in its square. Both in fractions.

        What the crop cuts off is left out.

        >>> transform = make_transform("squarepad", size=4)
        >>> transform.boxes([(0, 0, 1, 0.5)], (100, 200)), transform.boxes([(0, 0, 1, 1)], (4, 4))
        ([(0.25, 0.0, 0.75, 0.5)], [(0.0, 0.0, 1.0, 1.0)])
        """
        padding = TRANSFORMS[self.kind](*size, self.target_ratio)
        padded = tuple(side + 2 * pad for side, pad in zip(size, padding, strict=True))
        resized = _resized(padded, self.size)
        found = []
        for box in boxes:
            places = [
                (value * size[axis] + padding[axis]) / padded[axis] * resized[axis]
                - _offset(resized[axis], self.size)
                for axis, value in zip((0, 1, 0, 1), box, strict=True)
            ]
            left, top, right, bottom = (min(max(p / self.size, 0.0), 1.0) for p in places)
            if left < right and top < bottom:
                found.append((left, top, right, bottom))
        return found


def make_transform(
    kind: str,
    *,
    size: int,
    target_ratio: float = 1.25,
    mean: tuple[float, float, float] = CLIP_MEAN,
    std: tuple[float, float, float] = CLIP_STD,
    draft: bool = False,
) -> Transform:
    """The transform `kind`, a key of TRANSFORMS: a PIL image to [3, size, size] float32.

    `size` is in pixels. `mean` and `std` are those of values in [0, 1]. The result can be pickled.
    With `draft` it opens JPEGs at a fraction of their size. Raises UserError on an unknown kind, a
    size below 1 or a ratio below 1.

    >>> white = Image.new("RGB", (8, 4), "white")
    >>> to_tensor = make_transform("squarepad", size=4, mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> to_tensor(white).shape
    torch.Size([3, 4, 4])
    """
    if kind not in TRANSFORMS:
        raise UserError(f"There is no transform '{kind}'; choose one of {', '.join(TRANSFORMS)}.")
    if not 1 <= size <= MOST_PIXELS:
        raise UserError(f"The image size must be 1 to {MOST_PIXELS} pixels, not {size}.")
    if not target_ratio >= 1:
        raise UserError(
            f"The target ratio (long side by short side) must be 1 or more, not {target_ratio}."
        )
    return Transform(kind, size, target_ratio, mean, std, draft)


def _pad_resize_crop(image: Image.Image, padding: tuple[int, int], size: int) -> Image.Image:
    """Pad with black on each side, resize the shorter side to `size`, and crop the centre.

    This avoids intermediate pictures with many more pixels than the image. The result is the same,
    except for very thin images. These use fewer pixels and differ by a few levels of 255.
    """
    (horizontal, vertical), (width, height) = padding, image.size
    padded = (width + 2 * horizontal, height + 2 * vertical)
    resized = _resized(padded, size)
    if max(math.prod(padded), math.prod(resized)) > max(
        AFFORDABLE, 2 * width * height, 2 * size * size
    ):
        return _thin(image, padding, resized, size)
    if horizontal or vertical:
        image = image.crop((-horizontal, -vertical, width + horizontal, height + vertical))
    left, top = _offset(resized[0], size), _offset(resized[1], size)
    image = image.resize(resized, Image.Resampling.BICUBIC)
    return image.crop((left, top, left + size, top + size))


def _resized(padded: tuple[int, ...], size: int) -> tuple[int, int]:
    """Width and height when the shorter side becomes `size`.

    The longer side rounds down, as in the transforms that published weights were trained with.
    """
    shortest = min(padded)
    return int(size * padded[0] / shortest), int(size * padded[1] / shortest)


def _thin(
    image: Image.Image, padding: tuple[int, int], resized: tuple[int, int], size: int
) -> Image.Image:
    """The same in rows and then in columns, as Pillow does it.

    If this order is too much work, the longer side goes first. It has no padding.
    """
    sides = list(zip(padding, resized, strict=True))
    work = image.height * max(image.width + 2 * padding[0], 32 * size)
    columns_first = work > 32 * AFFORDABLE
    image = image.transpose(Image.Transpose.TRANSPOSE) if columns_first else image
    for pad, length in reversed(sides) if columns_first else sides:
        image = _shrink_rows(image, pad, length, size).transpose(Image.Transpose.TRANSPOSE)
    return image.transpose(Image.Transpose.TRANSPOSE) if columns_first else image


def _shrink_rows(image: Image.Image, pad: int, length: int, size: int) -> Image.Image:
    """The central `size` pixels of rows that are padded and resized to `length` pixels."""
    side = image.width + 2 * pad
    scale = side / length
    first = _offset(length, size)
    # The whole row gives the exact result. For a very long row, only the kept part is affordable.
    start, stop = (0, length) if length <= 16 * size else (first, first + size)
    support = 2 * max(scale, 1) + 1  # of the bicubic filter
    low = max(math.floor(start * scale - support), 0)
    high = min(math.ceil(stop * scale + support), side)
    box = (start * scale - low, min(stop * scale - low, high - low))
    result = Image.new("RGB", (size, image.height))
    rows = max(1, AFFORDABLE // max(high - low, stop - start))
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        part = image.crop((low - pad, top, high - pad, bottom))  # black outside of the image
        part = part.resize(
            (stop - start, bottom - top),
            Image.Resampling.BICUBIC,
            box=(box[0], 0, box[1], bottom - top),
        )
        kept = (first - start, 0, first - start + size, bottom - top)
        result.paste(part.crop(kept), (0, top))
    return result


def _offset(length: int, size: int) -> int:
    return round((length - size) / 2)  # half to even, as published
