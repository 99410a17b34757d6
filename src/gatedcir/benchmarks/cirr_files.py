"""Where the images of CIRR lie: in the published folders, or in others that people use."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from gatedcir.data.image_files import Index, Listings, only_file

IMAGE_FOLDERS = ("", "img_raw", "images")


def image_files(root: Path, images: Mapping[str, Path], listings: Listings) -> dict[str, Path]:
    """The file of each image.

    The first of IMAGE_FOLDERS that holds the exact file of the split wins. Else the image may
    have another ending, or lie in a folder above or below. A missing image gets the place
    where most of the others are.
    """
    bases = [root / folder for folder in IMAGE_FOLDERS]
    found: dict[str, Path] = {}
    used: Counter[Path] = Counter()
    for name, path in images.items():
        for base in bases:
            if path.name in listings.names((base / path).parent):
                found[name] = base / path
                used[base] += 1
                break
        else:
            file = only_file(path.stem, _other_places(bases, path, listings))
            file = file or only_file(path.stem, _places_below(root, path, listings))
            if file is not None:
                found[name] = file
    usual = max(bases, key=used.__getitem__)
    return {name: found.get(name, usual / path) for name, path in images.items()}


def _other_places(bases: list[Path], path: Path, listings: Listings) -> list[Index]:
    """The image files in the folder of an image and in those above it, up to the bases."""
    if path.is_absolute() or ".." in path.parts:
        return []
    return [listings.images(base / folder) for base in bases for folder in path.parents]


def _places_below(root: Path, path: Path, listings: Listings) -> list[Index]:
    """The image files below the folder of the image's split, and below the image folders."""
    if not path.parts or path.is_absolute() or ".." in path.parts:
        return []
    folders = dict.fromkeys((path.parts[0], *IMAGE_FOLDERS[1:]))
    return [listings.images_below(root / folder) for folder in folders]


def searched_folders(root: Path) -> str:
    """The folders below which images are looked for, for a message."""
    *first, last = (str(root / folder) for folder in IMAGE_FOLDERS)
    return f"{', '.join(first)} and {last}"
