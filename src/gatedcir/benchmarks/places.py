"""The places of the copies of a data set's images, relative to the copied folder."""

import os
from itertools import chain, count
from pathlib import Path

from gatedcir.errors import UserError

Places = dict[tuple[str, Path], Path]
"""An image's name and file -> the place of its copy, relative to the copied dataset's folder."""


def places_by_path(paths: list[tuple[str, Path]], source: Path) -> Places:
    """The images' own places. Images outside of the dataset's folder go to "outside"."""
    folder = _without_dots(source)
    places: dict[Path, Path] = {}
    taken: set[Path] = set()
    for path in sorted({path for _, path in paths}):
        file = _without_dots(path)
        inside = file.is_relative_to(folder)
        place = file.relative_to(folder) if inside else Path("outside", *file.parts[1:])
        # Two names may differ only in their endings.
        longer = (place.with_name(place.name + ".png" * n) for n in count(1))
        tries = chain([place.with_suffix(".png")], longer)
        places[path] = next(place for place in tries if place not in taken)
        taken.add(places[path])
    return {(name, path): places[path] for name, path in paths}


def places_by_name(paths: list[tuple[str, Path]], source: Path) -> Places:
    """Places in the folder images, under the images' names, because readers search by name.

    Raises:
        UserError: a name leads out of the folder or has two files.
    """
    places: Places = {}
    files: dict[str, Path] = {}
    for name, path in paths:
        place = Path(f"{name}.png")
        if place.anchor or ".." in place.parts:  # C:a has an anchor, and is not absolute
            raise UserError(f"the image name {name!r} leads out of the folder images; rename it.")
        if files.setdefault(name, path) != path:
            raise UserError(
                f"the image name {name!r} has two files, {files[name]} and {path}; rename one."
            )
        places[name, path] = "images" / place
    return places


def _without_dots(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))
