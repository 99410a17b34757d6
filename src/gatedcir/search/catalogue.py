"""The names in an index: which files show an image, and what is known about them (SQLite).

An image is its content. It has a number, which never changes, and any number of files. An image
without a file is kept until the index is compacted, but no search finds it.
"""

import json
import os
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

import numpy as np

from gatedcir.benchmarks.ranks import Indices
from gatedcir.errors import UserError
from gatedcir.files import room_for, whole_file
from gatedcir.search import whole_rows
from gatedcir.search.conditions import sql_of

_TABLES = """
CREATE TABLE IF NOT EXISTS images (number INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS files (
    file INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, number INTEGER NOT NULL,
    size INTEGER NOT NULL, modified INTEGER NOT NULL, metadata TEXT NOT NULL, crc INTEGER);
CREATE INDEX IF NOT EXISTS files_of_images ON files (number);
CREATE TABLE IF NOT EXISTS facts (file INTEGER NOT NULL, field TEXT NOT NULL, value);
CREATE INDEX IF NOT EXISTS files_of_facts ON facts (field, value, file);
CREATE INDEX IF NOT EXISTS facts_of_files ON facts (file);
"""
_AGAIN = "index the folder again: the features are kept, so no image is encoded again"
_WAYS_OUT = {  # the beginning of SQLite's name of an error -> what to do. Others are damages.
    "SQLITE_IOERR": "check the disk, its free space, and the limit on file sizes (ulimit -f)",
    "SQLITE_BUSY": "wait until the other process that writes it ends",
    "SQLITE_READONLY": "check its permissions",
    "SQLITE_PERM": "check its permissions",
    "SQLITE_CANTOPEN": f"check its permissions; if it is gone, {_AGAIN}",
}
Where = Mapping[str, Any]
"""Field -> the value that it must have, a list of values, or a tuple (low, high) with both ends.
None is an open end."""


class Known(NamedTuple):
    """A file as it was when it was indexed."""

    number: int
    size: int
    modified: int  # in nanoseconds


class Shown(NamedTuple):
    """An image as a result shows it."""

    path: Path
    duplicates: tuple[Path, ...]
    """Other files with the same content."""
    metadata: dict[str, Any]


class Catalogue:
    """Reading is safe from several threads, and next to one process that writes."""

    def __init__(self, file: Path, *, writable: bool = False) -> None:
        """Open a catalogue. Of a damaged one, a reader shows the files whose rows are whole.

        Raises:
            UserError: it cannot be opened, or it is damaged and to be written.
        """
        self.file, self._writable = file, writable
        self.damaged = False
        self._lock = RLock()
        # Also a reader has to take back what a killed process has left half written. Where it may
        # not write, SQLite opens the file for reading alone.
        mode = "rwc" if writable else "rw"
        with self._told():
            address = f"{file.absolute().as_uri()}?mode={mode}"
            self._database = sqlite3.connect(
                address, uri=True, check_same_thread=False, isolation_level=None
            )
            if writable and not file.stat().st_size:
                whole_rows.forget(file)
            if not writable:
                self._database.execute("PRAGMA query_only = ON")
            if not whole_rows.is_whole(self._database, file):
                self._leave_out_damaged()
            if writable:
                whole_rows.forget(file)
                self._database.executescript(_TABLES)
                whole_rows.keep_sums(self._database)
            self._database.execute("SELECT count(*) FROM files")

    def _leave_out_damaged(self) -> None:
        """Read the rows that are whole, and close the file."""
        told = f"{self.file} was damaged after it was written"
        way_out = f"put a copy back, or delete it and {_AGAIN}"
        if self._writable:
            raise UserError(f"{told}; {way_out}.")
        rows = list(whole_rows.whole_rows(self._database))
        self._database.close()
        self._database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._database.executescript(_TABLES)
        for row in rows:
            text = row.metadata.decode()
            self._database.execute(
                "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, NULL)", (*row[:-1], text)
            )
            self._note_facts(row.file, json.loads(text))
        self.damaged = True
        warnings.warn(f"{told}: {len(rows)} files of it can be used; {way_out}.", stacklevel=2)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the database as one sentence."""
        try:
            with room_for(self.file):
                yield
        except sqlite3.DatabaseError as error:
            name = getattr(error, "sqlite_errorname", "")
            way_out = next(
                (text for start, text in _WAYS_OUT.items() if name.startswith(start)),
                f"delete it and {_AGAIN}",
            )
            raise UserError(f"{self.file} cannot be used ({error}); {way_out}.") from error

    def _all(self, query: str, *values: Any) -> list[Any]:
        with self._lock, self._told():
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All changes of the block, or none."""
        with self._lock, self._told():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def version(self) -> int:
        """Another number after another process has written."""
        return self._all("PRAGMA data_version")[0][0]

    def files(self) -> dict[Path, Known]:
        """All files."""
        rows = self._all("SELECT path, number, size, modified FROM files ORDER BY file")
        return {Path(os.fsdecode(path)): Known(*known) for path, *known in rows}

    def images(self) -> dict[str, int]:
        """The number of every content that was ever indexed, by its digest."""
        return dict(self._all("SELECT digest, number FROM images"))

    def add_images(self, digests: Mapping[int, str]) -> None:
        """Note numbers with their digests. Numbers and digests that are known stay as they are."""
        with self.writing():  # one commit, where each row would wait for the disk
            self._database.executemany(
                "INSERT OR IGNORE INTO images VALUES (?, ?)", digests.items()
            )

    def forget_images(self, numbers: Iterable[int]) -> None:
        """Drop images that have no file."""
        with self.writing():
            self._database.executemany(
                "DELETE FROM images WHERE number = ?", ((number,) for number in numbers)
            )

    def set_file(self, path: Path, known: Known) -> None:
        """Note what a file shows now. Its metadata stay."""
        self._all(
            "INSERT INTO files (path, number, size, modified, metadata) VALUES (?, ?, ?, ?, '{}') "
            "ON CONFLICT (path) DO UPDATE SET number = excluded.number, size = excluded.size, "
            "modified = excluded.modified",
            os.fsencode(path),
            *known,
        )

    def rename_file(self, old: Path, new: Path) -> None:
        """Give a file another path. Its metadata stay."""
        self._all("UPDATE files SET path = ? WHERE path = ?", os.fsencode(new), os.fsencode(old))

    def drop_file(self, path: Path) -> None:
        """Forget a file."""
        name = os.fsencode(path)
        self._all("DELETE FROM facts WHERE file IN (SELECT file FROM files WHERE path = ?)", name)
        self._all("DELETE FROM files WHERE path = ?", name)

    def set_metadata(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Replace what is known about a file. Lists count as several values of a field."""
        [(file, old)] = self._all(
            "SELECT file, metadata FROM files WHERE path = ?", os.fsencode(path)
        )
        new = json.dumps(dict(metadata))
        if new == old:
            return
        self._all("UPDATE files SET metadata = ? WHERE file = ?", new, file)
        self._all("DELETE FROM facts WHERE file = ?", file)
        self._note_facts(file, metadata)

    def _note_facts(self, file: int, metadata: Mapping[str, Any]) -> None:
        for field, content in metadata.items():
            for value in content if isinstance(content, list) else [content]:
                if isinstance(value, str | int | float):
                    self._all("INSERT INTO facts VALUES (?, ?, ?)", file, field, value)

    def searchable(self, where: Where | None = None) -> Indices:
        """The numbers of all images with a file that fulfils all conditions, in order.

        Raises:
            UserError: no file has one of the fields.
        """
        condition, values = self._condition(where)
        rows = self._all(f"SELECT DISTINCT number FROM files {condition} ORDER BY number", *values)
        return np.array(rows, dtype=np.int64).reshape(-1)

    def show(self, number: int, where: Where | None = None) -> Shown | None:
        """An image by its first file that fulfils all conditions. None if there is none."""
        condition, values = self._condition(where)
        both = f"{condition} {'AND' if condition else 'WHERE'} number = ?"
        found = self._all(f"SELECT path, metadata FROM files {both} ORDER BY file", *values, number)
        if not found:
            return None
        first, metadata = found[0]
        rows = self._all("SELECT path FROM files WHERE number = ? ORDER BY file", number)
        others = tuple(Path(os.fsdecode(path)) for (path,) in rows if path != first)
        return Shown(Path(os.fsdecode(first)), others, json.loads(metadata))

    def fields(self) -> list[str]:
        """The fields of all metadata."""
        return [field for (field,) in self._all("SELECT DISTINCT field FROM facts ORDER BY field")]

    def values(self, field: str, *, most: int) -> list[Any]:
        """The values of a field, those of many files first."""
        found = self._all(
            "SELECT value FROM facts WHERE field = ? GROUP BY value "
            "ORDER BY count(*) DESC, value LIMIT ?",
            field,
            most,
        )
        return [value for (value,) in found]

    def counts(self) -> dict[str, int]:
        """How many files there are, how many contents they show, and how many are kept besides."""
        [(files, images)] = self._all("SELECT count(*), count(DISTINCT number) FROM files")
        [(known,)] = self._all("SELECT count(*) FROM images")
        return {"files": files, "images": images, "kept of removed files": known - images}

    def duplicates(self) -> list[list[Path]]:
        """Files with the same content."""
        rows = self._all(
            "SELECT number, path FROM files WHERE number IN (SELECT number FROM files "
            "GROUP BY number HAVING count(*) > 1) ORDER BY number, file"
        )
        found: dict[int, list[Path]] = {}
        for number, path in rows:
            found.setdefault(number, []).append(Path(os.fsdecode(path)))
        return list(found.values())

    def _condition(self, where: Where | None) -> tuple[str, list[Any]]:
        """SQL for conditions, and its values."""
        parts, values = [], []
        for field, wanted in (where or {}).items():
            if not self._all("SELECT 1 FROM facts WHERE field = ? LIMIT 1", field):
                fields = self.fields()
                way_out = (
                    f"there are {', '.join(fields)}"
                    if fields
                    else "`gatedcir index --metadata FILE` adds some"
                )
                raise UserError(f"no image has the field {field!r}; {way_out}.")
            test, those = sql_of(wanted)
            parts.append(f"file IN (SELECT file FROM facts WHERE field = ? AND {test})")
            values += [field, *those]
        return ("WHERE " + " AND ".join(parts)) if parts else "", values

    def copy(self, file: Path) -> None:
        """Write the same catalogue to another file. UserError if it is damaged."""
        if self.damaged:
            raise UserError(f"{self.file} is damaged; put a copy back, or index the folder again.")
        whole_rows.forget(file)
        with (
            self._lock,
            self._told(),
            whole_file(file) as unfinished,
            closing(sqlite3.connect(unfinished)) as target,
        ):
            self._database.backup(target)
        Catalogue(file, writable=True).close()  # which notes its checksum

    def close(self) -> None:
        """Close the database. A writer notes its checksum."""
        if self._writable:
            whole_rows.note(self._database, self.file)
        self._database.close()
