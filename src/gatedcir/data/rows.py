"""Files of rows, JSON lines or CSV, with line numbers, and one error for all wrong lines.

In CSV files, several values of a cell are separated by `|`.
"""

import codecs
import csv
import difflib
import io
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from gatedcir.errors import UserError, plain
from gatedcir.files import parse_json

Found = TypeVar("Found")
Row = dict[str, Any]
ENDINGS = (".jsonl", ".csv", ".tsv")
SHOWN = 10  # wrong lines that the error names
SEPARATOR = "|"
_CODES = {
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_rows(
    file: Path, keys: Collection[str], parse: Callable[[Row, int], Found], *, lists: Collection[str]
) -> list[Found]:
    """What `parse` makes of every row and its line number.

    Args:
        file: a file with one of `ENDINGS`.
        keys: the keys that a row may have.
        parse: raises a ValueError that says what is wrong with a row.
        lists: the keys that may have several values.

    Raises:
        UserError: the file is missing or no text, or lines are wrong. It names the first ten.
    """
    found, wrong = [], []
    for line, made in each_row(file, keys, parse, lists=lists):
        if isinstance(made, ValueError):
            wrong.append(f"line {line} {made}")
        else:
            found.append(made)
    if wrong:
        lines = "1 wrong line" if len(wrong) == 1 else f"{len(wrong)} wrong lines"
        more = ", ..." if len(wrong) > SHOWN else ""
        raise UserError(
            f"{file} has {lines}: {', '.join(wrong[:SHOWN])}{more}; correct them as the page "
            "docs/data.md describes."
        )
    return found


def each_row(
    file: Path, keys: Collection[str], parse: Callable[[Row, int], Found], *, lists: Collection[str]
) -> Iterator[tuple[int, Found | ValueError]]:
    """The number of every line, and what `parse` makes of it or what is wrong with it.

    The arguments are those of `read_rows`. A UserError says that the file is missing or no text.
    """
    for line, row in _rows(file, lists):
        try:
            if isinstance(row, ValueError):
                raise row
            _check_keys(row, keys)
            yield line, parse(row, line)
        except ValueError as error:
            yield line, error


def text_of(row: Row, key: str) -> str:
    """The text of a key. ValueError if it is missing, blank, or something else."""
    value = row.get(key)
    if value is None:
        raise ValueError(f"has no {key}")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"has {value!r} as {key}, which must be a text")
    if not value.strip():
        raise ValueError(f"has an empty {key}")
    return value


def texts_of(row: Row, key: str) -> tuple[str, ...]:
    """The texts of a key that may have one or several. Empty if the key is missing."""
    value = row.get(key)
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    return tuple(text_of({key: one}, key) for one in values)


def _check_keys(row: Row, keys: Collection[str]) -> None:
    for key in row:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            way_out = f"{near[0]} is the nearest" if near else f"the keys are {', '.join(keys)}"
            raise ValueError(f"has the unknown key {plain(key)} ({way_out})")


def _rows(file: Path, lists: Collection[str]) -> Iterator[tuple[int, Row | ValueError]]:
    text = read_text(file)
    yield from _json_lines(text) if file.suffix == ".jsonl" else _table(file, text, lists)


def read_text(file: Path) -> str:
    """A file's text in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        UserError: it is missing, or has another encoding.
    """
    try:
        content = file.read_bytes()
        code = next((name for mark, name in _CODES.items() if content.startswith(mark)), None)
        return content.decode(code or "utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"there is no file {file}; check its path.") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{file} is no text in UTF-8 (line {line}); save it as UTF-8.") from None


def _json_lines(text: str) -> Iterator[tuple[int, Row | ValueError]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            yield number, ValueError(f"is no JSON ({str(error).split(':')[0]})")
            continue
        yield number, row if isinstance(row, dict) else ValueError("is no JSON object")


def _table(file: Path, text: str, lists: Collection[str]) -> Iterator[tuple[int, Row | ValueError]]:
    """The rows of a table by its header. Empty cells are left out."""
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for cells in reader:
            if None in cells:
                yield reader.line_num, ValueError("has more cells than the header")
                continue
            row: Row = {key: cell for key, cell in cells.items() if cell and cell.strip()}
            for key in row.keys() & set(lists):
                parts = [part.strip() for part in row[key].split(SEPARATOR)]
                row[key] = [part for part in parts if part]
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(
            f"{file} is no table (line {reader.line_num}: {error}); correct it."
        ) from None
