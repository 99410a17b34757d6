"""The image files of a folder, and what a table says about them."""

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gatedcir.data.image_files import endings
from gatedcir.errors import UserError, reason_of
from gatedcir.files import parse_json, stamp

Stamps = dict[Path, tuple[int, int]]
"""Path -> size and time of modification."""
Metadata = dict[str, dict[str, Any]]
"""The name of a file, as the table has it -> its fields."""

_NAMES = ("path", "image", "file", "filename", "name")
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
UNREACHABLE = (0, 0)
"""The stamp of a link that leads nowhere, and of a folder that cannot be listed."""
_SHOWN = 10  # wrong lines that are named


def full_path(path: str | Path) -> Path:
    """A path from the root on, without `~` and `..`. Links stay."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 (`resolve` follows links)


def find_photos(place: Path) -> Stamps:
    """All image files in a folder and below it, sorted, or the one file, or those of a list.

    A list is a .parquet file. Its column path holds paths, relative to the list.

    The ending says what is an image, in any letter case. Links are followed. Names that begin with
    a dot are left out. A broken link, and a folder that cannot be listed, count as images, so that
    they are named later.

    Raises:
        UserError: there is no such folder, or it holds no image.
    """
    place = full_path(place)
    if place.suffix.lower() == ".parquet":
        return _listed(place)
    if place.is_file():
        return {place: stamp(place)}
    if not place.is_dir():
        raise UserError(f"there is no folder {place}; check the path.")
    found: Stamps = {}
    seen: set[str] = set()

    def note(error: OSError) -> None:
        found[Path(error.filename or place)] = UNREACHABLE

    for folder, folders, names in os.walk(place, onerror=note, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link may lead back to a folder above it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in endings():
                path = Path(folder, name)
                found[path] = stamp(path) if path.exists() else UNREACHABLE
    if not found:
        raise UserError(
            f"{place} and its sub-folders hold no image with an ending that Pillow reads (.jpg, "
            ".png, .webp, ...); name another folder."
        )
    return found


def _listed(file: Path) -> Stamps:
    """The images of a list. A file that is missing is named later."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f"the list {file} needs pyarrow, which is not installed; run pip install "
            "'gatedcir[parquet]'."
        ) from None
    try:
        named = parquet.read_table(file, columns=["path"])["path"].to_pylist()
        paths = [full_path(file.parent / name) for name in named]
    except Exception as error:  # pyarrow's errors have no common base
        raise UserError(
            f"the list {file} cannot be read ({reason_of(error)}); give a Parquet file with a "
            "column path of texts."
        ) from None
    if not paths:
        raise UserError(f"the list {file} names no image; name another one.")
    return {path: stamp(path) if path.exists() else UNREACHABLE for path in paths}


def read_metadata(file: Path) -> Metadata:
    """A table of images: a .csv file with a heading, or a .jsonl file with an object a line.

    One column holds the image's path: path, image, file, filename or name. A column of a CSV file
    is one of numbers if all its values are.

    Raises:
        UserError: there is no such file, or it is no such table. The first wrong lines are named.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the table {file} cannot be read ({error}); check the path.") from None
    rows, wrong = _read_jsonl(text) if file.suffix.lower() == ".jsonl" else _read_csv(text)
    key = next((name for name in _NAMES if rows and name in rows[0][1]), None)
    if key is None and not wrong:
        raise UserError(
            f"{file} names no images; give it a column called {', '.join(_NAMES[:-1])} or name."
        )
    found: Metadata = {}
    for line, row in rows:
        name = row.get(key or "")
        if isinstance(name, str) and name:
            found[name] = {field: v for field, v in row.items() if field != key and v is not None}
        else:
            wrong.append((line, f"has no {key}"))
    if wrong:
        shown = ", ".join(f"line {line} {reason}" for line, reason in sorted(wrong)[:_SHOWN])
        more = ", ..." if len(wrong) > _SHOWN else ""
        raise UserError(f"{file} has {len(wrong)} wrong lines: {shown}{more}; correct them.")
    return found


_Rows = tuple[list[tuple[int, dict[str, Any]]], list[tuple[int, str]]]
"""Rows and wrong lines, each with its number."""


def _read_jsonl(text: str) -> _Rows:
    rows, wrong = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            wrong.append((number, "is no JSON object"))
    return rows, wrong


def _read_csv(text: str) -> _Rows:
    reader = csv.reader(io.StringIO(text, newline=""))
    heading = next(reader, [])
    rows: list[tuple[int, list[str]]] = []
    wrong = []
    for row in reader:
        if not row:
            continue
        if len(row) == len(heading):
            rows.append((reader.line_num, row))
        else:
            wrong.append((reader.line_num, f"has {len(row)} values for {len(heading)} columns"))
    columns = [_values([row[place] for _, row in rows]) for place in range(len(heading))]
    found = [
        (number, {name: column[row] for name, column in zip(heading, columns, strict=True)})
        for row, (number, _) in enumerate(rows)
    ]
    return found, wrong


def _values(column: Sequence[str]) -> list[Any]:
    """The values of a column: numbers if all are. An empty one is None.

    >>> _values(["1", "", "2.5"]), _values(["007", "8"])
    ([1, None, 2.5], ['007', '8'])
    """
    if all(NUMBER.fullmatch(value) for value in column if value):
        return [number(value) if value else None for value in column]
    return [value or None for value in column]


def number(text: str) -> int | float:
    """A number as it is written.

    >>> number("2"), number("2.5")
    (2, 2.5)
    """
    return float(text) if re.search(r"[.eE]", text) else int(text)


def of_files(
    metadata: Metadata, files: Iterable[Path], *, base: Path
) -> dict[Path, dict[str, Any]]:
    """The fields of each file that the table names: in full, relative to `base`, or by its name.

    A bare name counts only if one file has it.

    Raises:
        UserError: the table names none of the files.
    """
    files = list(files)
    named: dict[str, list[Path]] = {}
    for path in files:
        named.setdefault(path.name, []).append(path)
    known = set(files)
    found = {}
    for name, fields in metadata.items():
        path = full_path(base / name)
        same = named.get(name, [])
        if path in known:
            found[path] = fields
        elif len(same) == 1:
            found[same[0]] = fields
    if metadata and not found:
        first = next(iter(metadata))
        raise UserError(
            f"the metadata name no image of {base} (the first is {first!r}); give paths relative "
            "to that folder."
        )
    return found
