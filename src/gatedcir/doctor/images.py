"""What is wrong with the images of a data set. Every file is read once."""

import re
import warnings
from collections.abc import Iterable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from gatedcir.data.readable import picture_or_reason
from gatedcir.doctor.findings import Findings
from gatedcir.doctor.parts import Part
from gatedcir.files import digest
from gatedcir.progress import bar

EXTREME = 4  # times as long as wide
_KIND_OF = {
    "missing": "missing image",
    "broken link": "missing image",
    "no image": "no image",
    "web page": "no image",
    "SVG drawing": "no image",
    "cut short or damaged": "cut short",
    "too many pixels": "too many pixels",
}
_ACROSS, _DOWN = 9, 8  # pixels of which the hash is made
_FINER = 2  # times as many a side are compared
_CLOSE = 8  # bits of 192 in which near-duplicates differ at most
_NEAR = 20  # steps of 255 by which their small pictures differ at most
_FLAT = 16  # a small picture with less contrast says nothing
_AT_ONCE = 4_000_000  # comparisons

Small = np.ndarray
"""A picture of 18 x 16 pixels: [16, 18, 3]."""


class Looked(NamedTuple):
    """What was seen in a file."""

    findings: tuple[tuple[str, str], ...]
    """Kinds and details."""
    content: str = ""
    """SHA-256 of the file. Empty if it cannot be read."""
    small: Small | None = None


def check_images(parts: Iterable[Part], notes: Findings, *, num_workers: int) -> int:
    """Read all images of all parts, note what is wrong with them, and return how many there are."""
    parts = list(parts)
    names = {path: name for part in parts for name, path in part.paths.items()}
    files = sorted(names)
    with ThreadPool(max(1, num_workers)) as pool:
        seen = list(bar(pool.imap(look, files), desc="reading images", total=len(files)))
    looked = dict(zip(files, seen, strict=True))
    for file, found in looked.items():
        for kind, detail in found.findings:
            notes.note(kind, f"{names[file]} ({file})", detail)
    compare(parts, {file: found for file, found in looked.items() if found.content}, notes)
    return len(files)


def look(path: Path) -> Looked:
    """Read one file."""
    with warnings.catch_warnings():  # Pillow warns of large images that it reads all the same
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        picture = picture_or_reason(path)
    if isinstance(picture, str):
        return Looked(((_KIND_OF.get(picture, "unreadable image"), picture),))
    small = picture.resize((_ACROSS * _FINER, _DOWN * _FINER), Image.Resampling.BOX)
    return Looked(tuple(_oddities(path, picture)), digest(path), np.asarray(small))


def _oddities(path: Path, picture: Image.Image) -> Iterable[tuple[str, str]]:
    with Image.open(path) as image:
        frames = _frames(image)
        if frames > 1:
            yield "animated", f"{frames} frames"
        if image.mode == "CMYK":
            yield "CMYK", image.format or ""
        # Pillow reads colours of 16 bits as 8, and only the raw mode of its decoder tells.
        raw = re.search(r";16[BLN]", " ".join(str(tile.args) for tile in image.tile))
        if image.mode in ("I", "F") or "16" in image.mode or raw:
            yield "16 bits", f"mode {image.mode}"
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            yield "transparent", f"mode {image.mode}"
        turn = _turn(image)
        if turn not in (None, 1):
            yield "rotated", f"orientation {turn}"
    if max(picture.size) > EXTREME * min(picture.size):
        yield "extreme shape", f"{picture.width} x {picture.height} pixels"


def _frames(image: Image.Image) -> int:
    """How many pictures a file holds, of which the first is read."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # a later one is broken
        return 1


def _turn(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as with decoders: errors of any kind
        return None


def compare(parts: list[Part], looked: dict[Path, Looked], notes: Findings) -> None:
    """Note images that are equal or nearly so, and those in training and evaluation."""
    trained = {
        part.paths[name] for part in parts if part.trains for name in part.used & set(part.paths)
    }
    ranked = {path for part in parts if not part.trains for path in part.paths.values()}
    names = {path: name for part in parts for name, path in part.paths.items()}
    same: dict[str, list[Path]] = {}
    for path, found in looked.items():
        same.setdefault(found.content, []).append(path)
    for paths in same.values():
        _note_equal(paths, names, trained, ranked, notes)
    firsts = [paths[0] for paths in same.values()]
    for one, other in near_pairs([looked[path].small for path in firsts]):
        pair = {firsts[one], firsts[other]}
        kind = "near leak" if pair & trained and pair & ranked else "near-duplicates"
        notes.note(kind, names[firsts[one]], f"and {names[firsts[other]]}")


def compare_names(parts: list[Part], notes: Findings) -> None:
    """Note images that training and evaluation share, by their names alone."""
    trained = {name for part in parts if part.trains for name in part.used}
    for part in parts:
        for name in () if part.trains else part.gallery:
            if name in trained:
                notes.note("leak", name, f"used by training, and in the gallery of {part.name}")


def _note_equal(
    paths: list[Path],
    names: dict[Path, str],
    trained: set[Path],
    ranked: set[Path],
    notes: Findings,
) -> None:
    leaks = trained.intersection(paths) and ranked.intersection(paths)
    shown = " and ".join(str(path) for path in paths)
    if leaks:
        notes.note("leak", names[paths[0]], shown)
    elif len(paths) > 1:
        notes.note("equal images", names[paths[0]], shown)


def near_pairs(smalls: list[Small | None]) -> Iterable[tuple[int, int]]:
    """The pairs of small pictures that are nearly equal.

    Each colour of a picture has 64 bits, which say whether a pixel is brighter than the next one
    (the difference hash). Pairs with nearly equal bits are compared by their pixels.
    """
    rich = {n: s for n, s in enumerate(smalls) if s is not None and int(np.ptp(s)) >= _FLAT}
    if len(rich) < 2:
        return
    numbers, pixels = list(rich), np.stack(list(rich.values())).astype(np.int16)
    blocks = pixels.reshape(len(rich), _DOWN, _FINER, _ACROSS, _FINER, 3).sum((2, 4))
    bits = np.packbits(blocks[:, :, 1:] > blocks[:, :, :-1], axis=None)
    hashes = bits.reshape(len(rich), -1).view(np.uint64)  # [N, 3]
    step = max(1, _AT_ONCE // len(rich))
    for start in range(0, len(rich), step):
        apart = np.bitwise_count(hashes[start : start + step, None] ^ hashes).sum(-1)
        for row, column in zip(*np.nonzero(apart <= _CLOSE), strict=True):
            one = start + row
            if one < column and np.abs(pixels[one] - pixels[column]).max() <= _NEAR:
                yield numbers[one], numbers[column]
