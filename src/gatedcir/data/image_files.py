"""Find the file of an image: the published one, or the only one of its name in a known place."""

import errno
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from gatedcir.errors import UserError

Index = Mapping[str, list[Path]]
"""Name without ending -> the image files of that name."""
OTHER_ENDINGS = "with any ending that Pillow reads (.jpg, .jpeg, .JPG, .png, .webp, ...)"

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


@cache
def endings() -> frozenset[str]:
    """The endings of the kinds of files that Pillow can open, in lower case."""
    from PIL import Image

    kinds = Image.registered_extensions().items()
    return frozenset(ending.lower() for ending, kind in kinds if kind in Image.OPEN)


class Listings:
    """The folders of a dataset. Each one is listed once, at its first use."""

    def __init__(self) -> None:
        self._listed: dict[Path, tuple[frozenset[str], list[Path]]] = {}
        self._images: dict[Path, Index] = {}
        self._below: dict[Path, Index] = {}

    def names(self, folder: Path) -> frozenset[str]:
        """The names of the entries of a folder. None if there is no such folder."""
        return self._list(folder)[0]

    def images(self, folder: Path) -> Index:
        """The image files in a folder, by their names without ending."""
        if folder not in self._images:
            found: dict[str, list[Path]] = {}
            for name in sorted(self.names(folder)):
                stem, dot, ending = name.rpartition(".")
                if (dot + ending).lower() in endings():
                    found.setdefault(stem, []).append(folder / name)
            self._images[folder] = found
        return self._images[folder]

    def images_below(self, folder: Path) -> Index:
        """The image files in all folders below a folder, by their names without ending."""
        if folder not in self._below:
            found: dict[str, list[Path]] = {}
            waiting = list(self._list(folder)[1])
            seen = {os.path.realpath(folder)} if waiting else set()
            while waiting:
                place = waiting.pop()
                real = os.path.realpath(place)
                if real not in seen:  # a link may lead back to a folder above it
                    seen.add(real)
                    waiting += self._list(place)[1]
                    for stem, files in self.images(place).items():
                        found.setdefault(stem, []).extend(files)
            self._below[folder] = found
        return self._below[folder]

    def _list(self, folder: Path) -> tuple[frozenset[str], list[Path]]:
        """The names of all entries, and the folders among them."""
        if folder not in self._listed:
            try:
                with os.scandir(folder) as scan:
                    entries = list(scan)
            except ValueError:  # half of a character or a zero is in its name
                entries = []
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    raise
                entries = []
            folders = sorted(folder / entry.name for entry in entries if _is_folder(entry))
            self._listed[folder] = frozenset(entry.name for entry in entries), folders
        return self._listed[folder]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # `entry.is_dir()` alone raises an error on a link to itself.
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry.path).is_dir())


def only_file(stem: str, places: Iterable[Index]) -> Path | None:
    """The image file of a name in some places. None if there is none.

    Raises:
        UserError: there are two different files. Links to one file count as one.
    """
    found = [file for place in places for file in place.get(stem, ())]
    if len(found) > 1:
        different = {os.path.realpath(file): file for file in reversed(found)}
        if len(different) > 1:
            first, second, *_ = sorted(different.values())
            raise UserError(
                f"the image {stem} has two files, {first} and {second}; keep one of them."
            )
    return found[0] if found else None
