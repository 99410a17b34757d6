"""Files and folders that are written whole or not at all.

Both are made under a name that nobody else has, next to their target. They get the target's name
when all is written. Nothing is removed but what was made here.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file that becomes `path` when the block ends without an error.

    A file that was there is replaced. Its folder is made if it is missing.
    """
    with _next_to(path) as unfinished:
        yield unfinished
        _sync(unfinished)
        _rename(unfinished, path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill that becomes `path` when the block ends without an error.

    `path` must not exist then, or be an empty folder. The folder above it is made if it is missing.
    """
    with _next_to(path) as unfinished:
        unfinished.mkdir()
        yield unfinished
        for place in (*unfinished.rglob("*"), unfinished):
            _sync(place)
        if path.is_dir():
            path.resolve().rmdir()  # an empty one: Windows does not replace it, and others raise
        _rename(unfinished, path)


@contextmanager
def _next_to(path: Path) -> Iterator[Path]:
    """A place with the name of `path`, on its disk, in a folder that is removed at the end."""
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f"{target.name[:50]}.", suffix=".unfinished"
    ) as folder:
        yield Path(folder) / target.name


def _rename(unfinished: Path, path: Path) -> None:
    target = path.resolve()  # a link to elsewhere stays a link
    unfinished.replace(target)
    _sync(target.parent)


def _sync(place: Path) -> None:
    """A power cut must not leave a name without its content."""
    windows = os.name == "nt"
    if windows and place.is_dir():
        return  # it opens no folders
    descriptor = os.open(place, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
