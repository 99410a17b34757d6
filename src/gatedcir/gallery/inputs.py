"""What a caller gives as images and texts -> pictures, and texts with weights."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from gatedcir.benchmarks.load import check_caption
from gatedcir.data.pictures import open_image, upright
from gatedcir.errors import UserError, reason_of

Weighted = tuple[tuple[str, float], ...]
"""The parts of one text, each with its weight."""
Picture = str | Path | bytes | Image.Image | np.ndarray | Tensor
"""A path, the bytes of an image file, a PIL image, or an array [H, W, 3] or [H, W]."""


@dataclass(frozen=True)
class Query:
    """One query: an image, a text in weighted parts, or both."""

    image: Image.Image | None
    text: Weighted | None
    strength: float = 1.0
    """The factor of the fusion's change to the image. With 0, the text leaves the image as it is
    and only the Q-Former reads it."""


def pictures_of(images: Any) -> tuple[list[Image.Image], bool]:
    """The pictures of one image or of a list of them, and whether it was one.

    Raises:
        UserError: one of them is no image or cannot be read.
    """
    one = not isinstance(images, list | tuple) and getattr(images, "ndim", 0) != 4
    return [picture_of(image) for image in ([images] if one else images)], one


def picture_of(image: Picture) -> Image.Image:
    """One image in RGB, upright. Floats of an array go from 0 to 1.

    Raises:
        UserError: it is no image or cannot be read.
    """
    if isinstance(image, str | Path):
        return open_image(Path(image).expanduser())
    try:
        if isinstance(image, bytes):
            with Image.open(io.BytesIO(image)) as opened:
                return upright(opened)
        if isinstance(image, Image.Image):
            return upright(image)
        return upright(Image.fromarray(_eight_bits(np.asarray(image))))
    except Exception as error:  # Pillow's decoders raise errors of any kind
        raise UserError(
            f"the image given as {type(image).__name__} cannot be read ({reason_of(error)}); give "
            "a path, the bytes of an image file, a PIL image, or an array [H, W, 3]."
        ) from error


def _eight_bits(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f" and values.size and values.min() >= 0 and values.max() <= 1:
        return (values * 255 + 0.5).astype(np.uint8)
    raise ValueError(f"{values.dtype} of shape {values.shape}, not uint8 or floats from 0 to 1")


def texts_of(texts: Any) -> tuple[list[Weighted], bool]:
    """The parts of one text or of a list of texts, and whether it was one.

    A text is a str, or a list of pairs (str, weight).

    >>> texts_of("red"), texts_of([("red", 1.0), ("striped", -0.5)])
    (([(('red', 1.0),)], True), ([(('red', 1.0), ('striped', -0.5))], True))
    >>> texts_of(["red", [("blue", 2)]])
    ([(('red', 1.0),), (('blue', 2.0),)], False)

    Raises:
        UserError: one of them is no text, is too long or has no weight that is a number.
    """
    several = isinstance(texts, list | tuple)
    one = not several or (bool(texts) and all(isinstance(text, tuple) for text in texts))
    return [_parts(text) for text in ([texts] if one else texts)], one


def _parts(text: Any) -> Weighted:
    pairs: Sequence[Any] = [(text, 1.0)] if isinstance(text, str) else text
    try:
        parts = tuple((words, float(weight)) for words, weight in pairs)
    except (TypeError, ValueError):
        parts = ()
    right = all(isinstance(words, str) and math.isfinite(weight) for words, weight in parts)
    if not parts or not right:
        raise UserError(f"{text!r} is no text; give a str, or a list of pairs (str, weight).")
    if not any(weight for _, weight in parts):
        raise UserError("all weights of the text are 0; give one another weight.")
    for words, _ in parts:
        check_caption(words, where="the query")
    return parts
