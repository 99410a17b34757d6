"""Files and folders that are written whole or not at all.

Both are made under a name that nobody else has, next to their target. They get the target's name
when all is written. Nothing is removed but what was made here.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONFIG_FILE = "config.yaml"  # the options of a run, in its folder


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file that becomes `path` when the block ends without an error.

    A file that was there is replaced. Its folder is made if it is missing.
    """
    with whole_files(path) as folder:
        yield folder / path.resolve().name


@contextmanager
def whole_files(*paths: Path) -> Iterator[Path]:
    """A folder to write files for one place in; they move there if the block ends without error.

    All of them must be written. They move in the order of `paths`.
    """
    with _next_to(paths[0]) as unfinished:
        folder = unfinished.parent
        yield folder
        places = [(folder / path.resolve().name, path) for path in paths]
        for written, _ in places:
            _sync(written)
        for written, path in places:
            _rename(written, path)


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8, written whole or not at all; its folder is made."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Indented JSON, written whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


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


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of modification of a file, which cost nothing to compare."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_all(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files of a folder, all or none; their paths."""
    files = [folder / name for name in contents]
    with whole_files(*files) as unfinished:
        for name, content in contents.items():
            (unfinished / name).write_bytes(content)
    return files
