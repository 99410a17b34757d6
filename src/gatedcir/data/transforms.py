"""From an image file to a normalised tensor, with Pillow and torch alone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from gatedcir.errors import UserError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def open_image(path: Path, *, at_least: int | None = None) -> Image.Image:
    """The image in a file, decoded, in RGB; transparency is dropped.

    Args:
        path: the file.
        at_least: pixels that its sides must keep; a JPEG is then decoded at the smallest of the
            whole, a half, a quarter and an eighth that does. In full size when not given.

    Raises:
        UserError: the file is missing, broken or truncated; it is named.
    """
    try:
        with Image.open(path) as image:
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            return image.convert("RGB")
    # Pillow's decoders tell of broken files by any of these.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"The image {path} cannot be read ({error}); replace the file.") from error


def target_padding(width: int, height: int, target_ratio: float) -> tuple[int, int]:
    """Pixels on each side (left and right, top and bottom) that bring the ratio to `target_ratio`.

    Nothing is added below that ratio. Source: TargetPad of CLIP4Cir (Baldrati et al., 2022).

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

    The ratio is not used; an odd difference leaves the square one pixel short, as published.

    >>> square_padding(101, 200, 1.25)
    (49, 0)
    """
    longest = max(width, height)
    return (longest - width) // 2, (longest - height) // 2


def no_padding(width: int, height: int, target_ratio: float) -> tuple[int, int]:
    """No pixels: CLIP's own transform crops what does not fit."""
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

    def open(self, path: Path) -> Image.Image:
        """The image in a file, as `open_image`; a draft has at least twice the input's side."""
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

        It does not change its own results.
        """
        # RGB comes first: to pad or to interpolate palette indices or alpha makes false colours.
        image = image if image.mode == "RGB" else image.convert("RGB")
        horizontal, vertical = TRANSFORMS[self.kind](*image.size, self.target_ratio)
        if horizontal or vertical:
            image = ImageOps.expand(image, (horizontal, vertical, horizontal, vertical), fill=0)
        return _centre_crop(_resize_shorter(image, self.size), self.size)


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

    `size` is in pixels, `mean` and `std` are those of values in [0, 1]. The result can be
    pickled; with `draft` it opens JPEGs at a fraction of their size. Raises UserError on an unknown
    kind, a size below 1 or a ratio below 1.

    >>> white = Image.new("RGB", (8, 4), "white")
    >>> to_tensor = make_transform("squarepad", size=4, mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> to_tensor(white).shape
    torch.Size([3, 4, 4])
    """
    if kind not in TRANSFORMS:
        raise UserError(f"There is no transform '{kind}'; choose one of {', '.join(TRANSFORMS)}.")
    if size < 1:
        raise UserError(f"The image size must be 1 pixel or more, not {size}.")
    if not target_ratio >= 1:
        raise UserError(
            f"The target ratio (long side by short side) must be 1 or more, not {target_ratio}."
        )
    return Transform(kind, size, target_ratio, mean, std, draft)


def _resize_shorter(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    shortest = min(width, height)
    # The longer side rounds down, as in the transforms that published weights were trained with.
    resized = (int(size * width / shortest), int(size * height / shortest))
    return image.resize(resized, Image.Resampling.BICUBIC)


def _centre_crop(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    left, top = round((width - size) / 2), round((height - size) / 2)  # half to even, as published
    return image.crop((left, top, left + size, top + size))
