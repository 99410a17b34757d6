"""Whether a catalogue is as it was written, and which of its rows are if it is not.

SQLite has no checksums of its own. So a file next to the catalogue notes the CRC-32 of its whole
content when a writer closes it, which is quick to compare. Each row of a file has a checksum too,
which tells the rows that are whole from the damaged ones.
"""

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from gatedcir.errors import UserError
from gatedcir.files import check_was_read, parse_json, write_json

_COLUMNS = ("file", "path", "number", "size", "modified", "metadata")
_CHANGES = slice(24, 28)  # of a database: how often it was changed
_ROW = f"row_sum({', '.join(f'NEW.{name}' for name in _COLUMNS)})"
_ROWS = f"SELECT {', '.join(_COLUMNS)}, crc FROM files NOT INDEXED ORDER BY file"
_TRIGGERS = "".join(
    f"CREATE TEMP TRIGGER {name} AFTER {change} ON main.files BEGIN "
    f"UPDATE files SET crc = {_ROW} WHERE file = NEW.file; END;\n"
    for name, change in (
        ("sum_of_new", "INSERT"),
        ("sum_of_changed", f"UPDATE OF {', '.join(_COLUMNS)}"),
    )
)


class Row(NamedTuple):
    """A row of the table of files, without its checksum."""

    file: int
    path: bytes
    number: int
    size: int
    modified: int
    metadata: bytes


def keep_sums(database: sqlite3.Connection) -> None:
    """Let a connection that writes note a checksum with every row."""
    if "crc" not in (name for _, name, *_ in database.execute("PRAGMA table_info(files)")):
        database.execute("ALTER TABLE files ADD COLUMN crc INTEGER")  # of an earlier version
    database.create_function("row_sum", len(_COLUMNS), _row_sum, deterministic=True)
    database.executescript(_TRIGGERS)


def note(database: sqlite3.Connection, file: Path) -> None:
    """Note the checksum of a catalogue that is not written now. No note is made on a full disk."""
    with suppress(UserError, OSError, sqlite3.Error):
        write_json(_note_of(file), _state(database))


def forget(file: Path) -> None:
    """Take the note back, because the catalogue will change or is a new one."""
    _note_of(file).unlink(missing_ok=True)


def is_whole(database: sqlite3.Connection, file: Path) -> bool:
    """Whether a catalogue is as its note says. Without a note that is of this state, it is."""
    place = _note_of(file)
    try:
        noted = list(parse_json(place.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return True
    except (OSError, ValueError, TypeError) as error:
        check_was_read(place, error)
        return True
    now = _state(database)
    is_of_now = noted[:1] == now[:1] and _row_sum(*noted[:-1]) == noted[-1]
    return not is_of_now or noted == now


def whole_rows(database: sqlite3.Connection) -> Iterator[Row]:
    """The rows whose checksums hold. Where a part cannot be read, those from both sides of it."""
    kept, seen = database.text_factory, set[int]()
    database.text_factory = bytes  # a damaged text may be no UTF-8
    try:
        for order in ("ASC", "DESC"):
            with suppress(sqlite3.DatabaseError):
                for *values, crc in database.execute(f"{_ROWS} {order}"):
                    row = Row(*values)
                    if row.file not in seen and crc == _row_sum(*row):
                        seen.add(row.file)
                        yield row
    finally:
        database.text_factory = kept


def _row_sum(*values: Any) -> int:
    """The checksum of a row."""
    plain = [value.encode() if isinstance(value, str) else value for value in values]
    return zlib.crc32(repr(plain).encode())


def _state(database: sqlite3.Connection) -> list[int]:
    """How often a catalogue was changed, the CRC-32 of its content, and a checksum of both.

    SQLite reads it, because to open the file a second time would take the locks of this process.
    """
    content = database.serialize()
    found = [int.from_bytes(content[_CHANGES], "big"), zlib.crc32(content)]
    return [*found, _row_sum(*found)]


def _note_of(file: Path) -> Path:
    return file.with_suffix(".sum")
