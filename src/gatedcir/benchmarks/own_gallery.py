"""The images that your own triplets are searched in."""

import os
from pathlib import Path

from gatedcir.benchmarks.base import Choice
from gatedcir.benchmarks.own_lines import SPLITS, Line, Source, images_of, name_of
from gatedcir.data.image_files import Listings
from gatedcir.data.rows import ENDINGS, Row, read_rows, read_text, text_of
from gatedcir.errors import UserError

GALLERY = ".gallery"  # before the ending of a file that lists a gallery
KEYS = ("image", "split", "category")


def gallery_of(
    source: Source, split: str, category: str | None, lines: list[Line], choice: Choice
) -> tuple[list[str], str]:
    """The images that are searched, in the order in which ties are broken, and a note on them."""
    named = images_of(lines)
    if split == "train" and not choice.ranked:  # training ranks nothing
        return named, ""
    if choice.gallery not in ("split", "all"):
        place = Path(choice.gallery)
        known = {_plain(source.root / image): image for image in named}
        files = map(_plain, _files_of(place, source.listings))
        there = [known.get(file) or os.path.relpath(file, source.root) for file in files]
        return list(dict.fromkeys((*there, *named))), f" ({place})"
    found = _listed_gallery(source, split, category) or named
    if choice.gallery == "split":
        return found, ""
    for other in SPLITS:
        more = [line for line in source.lines_if_any(other) if line.category == category]
        found = [*found, *(_listed_gallery(source, other, category) or images_of(more))]
    return list(dict.fromkeys(found)), " (all splits)"


def _listed_gallery(source: Source, split: str, category: str | None) -> list[str]:
    """The images in the list next to the triplets. Empty if there is none."""
    path = source.place(split)
    for ending in (".txt", *ENDINGS):
        listing = path and path.with_name(f"{path.stem}{GALLERY}{ending}")
        if listing and listing.is_file():
            return [
                image
                for image, of_split, of_category in _listed(listing)
                if of_split in (None, split) and of_category in (None, category)
            ]
    return []


def _listed(file: Path) -> list[tuple[str, str | None, str | None]]:
    """The images of a file that lists them, with their splits and categories."""
    if file.suffix not in ENDINGS:
        return [
            (name_of(line), None, None) for line in read_text(file).splitlines() if line.strip()
        ]

    def parse(row: Row, number: int) -> tuple[str, str | None, str | None]:
        return name_of(text_of(row, "image")), row.get("split"), row.get("category")

    return read_rows(file, KEYS, parse, lists=())


def _files_of(place: Path, listings: Listings) -> list[Path]:
    """The images of a folder and those below it by their paths, or those that a file lists."""
    if not place.is_dir():
        return [place.parent / image for image, *_ in _listed(place)]
    indices = (listings.images(place), listings.images_below(place))
    files = [file for index in indices for files in index.values() for file in files]
    if not files:
        raise UserError(f"the gallery {place} holds no images; name another folder.")
    return sorted(files)


def _plain(file: Path) -> str:
    """A file's whole path without detours."""
    return os.path.normpath(file.absolute())
