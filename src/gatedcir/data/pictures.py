"""From an image file to a picture in RGB with 8 bits, as every viewer shows it."""

import stat
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from gatedcir.errors import UserError, reason_of

READING = 2
"""Another number where files give other pixels: what is kept of them is told apart by it.

2: EXIF rotation is applied, and 16-bit and float images are scaled to 8 bits.
"""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_BITS = ("PNG", "PPM")  # formats without 32-bit integers, which Pillow may read as mode I


class OtherRangeError(ValueError):
    """An image's numbers have no known meaning in 8 bits."""


def open_image(path: Path, *, at_least: int | None = None) -> Image.Image:
    """The image in a file, decoded, upright, in RGB, without transparency.

    If there are several frames or pages, the first one is read.

    Args:
        path: the file.
        at_least: pixels that its sides must keep. A JPEG is then decoded at the smallest size that
            keeps them: full, a half, a quarter or an eighth. By default the size is full.

    Raises:
        UserError: the file is missing, closed, broken, truncated, or of a kind without a reading
            in 8 bits. The error names the file.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            kind = "a folder" if stat.S_ISDIR(mode) else "not a file"
            raise UserError(f"The image {path} cannot be read: it is {kind}; name an image file.")
        return _decode(path, at_least)
    except UserError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        missing = "the file that it links to" if path.is_symlink() else "it"
        raise UserError(
            f"The image {path} cannot be read: {missing} does not exist; check the path."
        ) from None
    except PermissionError:
        raise UserError(f"The image {path} may not be read; check its permissions.") from None
    except MemoryError as error:
        raise UserError(
            f"The image {path} cannot be read: it needs more memory than there is; make it smaller."
        ) from error
    # Pillow's decoders raise errors of any kind for broken files.
    except Exception as error:
        raise UserError(
            f"The image {path} cannot be read ({reason_of(error)}); replace the file by a JPEG or "
            "PNG with 8 bits a channel."
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB with 8 bits.

    Grey of 16 bits is divided by 257. Floats from 0 to 1 are multiplied by 255. Both are rounded.
    Integers of 32 bits count as 16 bits if they fit and some need more than 8.

    Raises:
        OtherRangeError: numbers of another range.
        ValueError: a mode that Pillow does not convert.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_eight_bits(image))
    return image.convert("RGB")


def _decode(path: Path, at_least: int | None) -> Image.Image:
    with Image.open(path) as image:
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """An opened image in RGB with 8 bits, turned as its EXIF block says.

    Raises:
        ValueError: as `to_rgb`, or it has no pixels.
    """
    picture = to_rgb(image)
    if 0 in picture.size:
        raise ValueError("it has no pixels")
    turn = _turn(image)
    return picture if turn is None else picture.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The turn that makes a decoded image upright. None if the EXIF block is broken."""
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as with decoders: errors of any kind
        return None


def _eight_bits(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # true of NaN as well
            raise OtherRangeError(f"its numbers go from {low:g} to {high:g}, not from 0 to 1")
        return (values * 255 + 0.5).astype(np.uint8)
    if low < 0 or high > 65535:
        raise OtherRangeError(f"its integers go from {low} to {high}, which 16 bits do not hold")
    if image.mode == "I" and image.format not in _SIXTEEN_BITS and high < 256:
        raise OtherRangeError("its 32-bit integers all lie below 256, and may mean 8 or 16 bits")
    tags = getattr(image, "tag_v2", {})  # of a TIFF file
    white = 4095 if tags.get(ExifTags.Base.BitsPerSample) == (12,) else 65535
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # white is zero
        values = white - values.astype(np.int32)
    return (values / white * 255 + 0.5).astype(np.uint8)
