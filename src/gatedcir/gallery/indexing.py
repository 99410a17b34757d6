"""A folder of photos -> its index, as far as it has changed since the last time.

Files are compared by size and time first, and by the hash of their content if these differ. Only a
content that is new is encoded. Features are written every few seconds, so a process that is killed
loses little, and the same command goes on.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Self

import numpy as np

from gatedcir.errors import UserError, check_folder_to_write
from gatedcir.files import digest, stamp
from gatedcir.gallery.engines import ENGINES
from gatedcir.gallery.photos import (
    UNREACHABLE,
    Stamps,
    find_photos,
    full_path,
    of_files,
    read_metadata,
)
from gatedcir.gallery.place import IndexFolder, new_manifest
from gatedcir.gallery.report import Report
from gatedcir.gallery.retriever import Retriever
from gatedcir.progress import bar
from gatedcir.run_folder.claim import Claim
from gatedcir.search.catalogue import Known
from gatedcir.search.index import Floats, Settings

WRITE_IMAGES, WRITE_SECONDS = 2048, 20.0  # after as many or as long, features are written


@dataclass
class Indexing:
    """An index that this process alone may write.

    `engine` is a key of `ENGINES`, and `workers` is how many of its workers encode images.
    """

    target: IndexFolder
    retriever: Retriever
    engine: str = "process"
    workers: int | None = None
    report: Report = field(default_factory=Report)
    _pending: list[tuple[int, str, Floats, list[Path]]] = field(default_factory=list)
    _written: float = 0.0

    @classmethod
    @contextmanager
    def at(
        cls,
        path: Path,
        retriever: Retriever,
        *,
        kind: str | None = None,
        precision: str | None = None,
        settings: Settings | None = None,
        engine: str = "process",
        workers: int | None = None,
    ) -> Iterator[Self]:
        """The index in a folder, made if it is missing, until the end of the block.

        Raises:
            UserError: it is in use, or another model's, or no index; as `new_manifest`.
        """
        check_folder_to_write(path, "the index")
        claim = Claim(path)
        try:
            manifest = new_manifest(
                path, retriever, kind=kind, precision=precision, settings=settings
            )
            target = IndexFolder.open(path, manifest, writable=True)
            try:
                yield cls(target, retriever, engine, workers)
            finally:
                target.close()
        finally:
            claim.release()

    def sync(
        self,
        images: Path,
        *,
        metadata: Path | None = None,
        num_workers: int = 2,
        watch_deleted: bool = False,
    ) -> Report:
        """Make the index show what a folder holds. Files elsewhere stay as they are.

        Args:
            images: the folder.
            metadata: a table of what is known about the images.
            num_workers: threads that read images.
            watch_deleted: take files that have vanished from the folder out of the index. Without
                it they stay and are named, because a disk that is not mounted looks the same.
                Files below a folder that cannot be listed stay in any case.

        Raises:
            UserError: the folder holds no image; the metadata are no table or name none of the
                images; the disk is full.
        """
        files = find_photos(images)
        base = full_path(images)
        table = None if metadata is None else read_metadata(metadata)
        fields = {} if table is None else of_files(table, files, base=base)
        known = self.target.catalogue.files()
        closed = [path for path, found in files.items() if found == UNREACHABLE]
        gone = {
            path
            for path in known
            if path not in files
            and path.is_relative_to(base)
            and not any(path.is_relative_to(folder) for folder in closed)
        }
        self._bring_in(files, known, gone, num_workers=num_workers)
        if watch_deleted:
            with self.target.catalogue.writing():
                for path in gone:
                    self.target.catalogue.drop_file(path)
        else:
            self.report.missing = sorted(gone)
        self.report.counts["deleted" if watch_deleted else "missing"] += len(gone)
        self._set_metadata(fields)
        self.target.stored.save()
        return self.report

    def add(
        self, places: Sequence[Path], *, metadata: Path | None = None, num_workers: int = 2
    ) -> Report:
        """Add files and the files of folders. Nothing is removed. Raises as `sync`."""
        files = {path: found for place in places for path, found in find_photos(place).items()}
        fields = {}
        if metadata is not None:
            fields = of_files(read_metadata(metadata), files, base=full_path(places[0]))
        self._bring_in(files, self.target.catalogue.files(), set(), num_workers=num_workers)
        self._set_metadata(fields)
        self.target.stored.save()
        return self.report

    def remove(self, places: Sequence[Path]) -> Report:
        """Remove files and the files of folders. Their features stay until `compact`.

        Raises:
            UserError: the index has no such file.
        """
        catalogue = self.target.catalogue
        known = catalogue.files()
        with catalogue.writing():
            for place in places:
                full = full_path(place)
                found = [path for path in known if path.is_relative_to(full)]
                if not found:
                    raise UserError(
                        f"the index {self.target.path} has no file {full}, so nothing was removed; "
                        "check the path."
                    )
                for path in found:
                    catalogue.drop_file(path)
                    known.pop(path)
                    self.report.counts["deleted"] += 1
        return self.report

    def compact(self) -> int:
        """Delete the features of removed files. Returns how many images they were of."""
        stored, catalogue = self.target.stored, self.target.catalogue
        dead = sorted(stored.entries().keys() - set(catalogue.searchable().tolist()))
        if dead:
            stored.remove(dead)
        stored.save()
        unused = set(catalogue.images().values()) - set(catalogue.searchable().tolist())
        catalogue.forget_images(sorted(unused))
        return len(dead)

    def _bring_in(
        self, files: Stamps, known: Mapping[Path, Known], gone: set[Path], *, num_workers: int
    ) -> None:
        """Note all files, and encode what is new. Renamed files are taken out of `gone`."""
        catalogue, counts = self.target.catalogue, self.report.counts
        there = self.target.stored.entries()
        catalogue.add_images(there)  # of a process that was killed before it could note them
        images = catalogue.images()
        unread = [
            path
            for path, found in files.items()
            if path not in known or known[path][1:] != found or known[path].number not in there
        ]
        counts["unchanged"] += len(files) - len(unread)
        by_digest = self._read(unread, num_workers)
        unreachable = set(self.report.broken)  # a disk that is away, so these may come back
        shown = set(catalogue.searchable().tolist())
        kinds: dict[Path, str] = {}
        left = {known[path].number: path for path in sorted(gone, reverse=True)}
        with catalogue.writing():
            for content, paths in by_digest.items():
                number = images.get(content, -1)
                for path in paths:
                    if path not in known and number in left:
                        gone.discard(old := left.pop(number))
                        catalogue.rename_file(old, path)
                        kinds[path] = "renamed"
                    else:
                        first = path == paths[0] and number not in shown
                        kinds[path] = _kind(known.get(path), number, first=first)
                    if number in there:
                        catalogue.set_file(path, Known(number, *files[path]))
        new = {
            content: paths
            for content, paths in by_digest.items()
            if images.get(content, -1) not in there
        }
        after = max([*images.values(), *there, 0]) + 1
        for content in new:
            if content not in images:
                images[content], after = after, after + 1
        self._encode(
            {paths[0]: (images[c], c, paths) for c, paths in new.items()}, files, num_workers
        )
        with catalogue.writing():
            for path in (self.report.broken.keys() & known.keys()) - unreachable:
                catalogue.drop_file(path)  # it does not show any more what it showed
        counts.update(kind for path, kind in kinds.items() if path not in self.report.broken)

    def _read(self, paths: Sequence[Path], num_workers: int) -> dict[str, list[Path]]:
        """The files of every content, by its hash."""
        found: dict[str, list[Path]] = {}
        with ThreadPool(max(1, num_workers)) as pool:
            hashes = pool.imap(_digest, paths)
            shown = bar(hashes, desc="reading files", total=len(paths), unit="file", leave=False)
            for path, result in zip(paths, shown, strict=True):
                if isinstance(result, OSError):
                    self.report.broken[path] = _reason(path, result)
                else:
                    found.setdefault(result, []).append(path)
        return found

    def _encode(
        self,
        new: Mapping[Path, tuple[int, str, list[Path]]],
        files: Stamps,
        num_workers: int,
    ) -> None:
        """Encode one file of each new content, and write the features every few seconds."""
        self._written = time.monotonic()
        try:
            with bar(total=len(new), desc="encoding", unit="img") as shown:
                stream = ENGINES[self.engine](
                    self.retriever, list(new), num_workers=num_workers, workers=self.workers
                )
                for paths, features, broken in stream:
                    shown.update(len(paths) + len(broken))
                    for path, why in broken.items():
                        self.report.broken |= dict.fromkeys(new[path][2], why)
                    for path, one in zip(paths, features, strict=True):
                        number, content, same = new[path]
                        if _has_changed(path, files[path]):
                            self.report.broken[path] = "changed while it was read"
                        else:
                            self._pending.append((number, content, one, same))
                    late = time.monotonic() - self._written > WRITE_SECONDS
                    if late or len(self._pending) >= WRITE_IMAGES:
                        self._write(files)
        finally:  # also after Ctrl-C
            self._write(files)

    def _write(self, files: Stamps) -> None:
        """Write features, and then note their files."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        numbers, contents, features, paths = zip(*pending, strict=True)
        self.target.stored.add(numbers, contents, np.stack(features))
        self.target.catalogue.add_images(dict(zip(numbers, contents, strict=True)))
        with self.target.catalogue.writing():
            for number, same in zip(numbers, paths, strict=True):
                for path in same:
                    self.target.catalogue.set_file(path, Known(number, *files[path]))
        self.report.encoded += len(pending)
        self._written = time.monotonic()

    def _set_metadata(self, fields: Mapping[Path, dict[str, Any]]) -> None:
        there = self.target.catalogue.files()
        with self.target.catalogue.writing():
            for path, content in fields.items():
                if path in there:
                    self.target.catalogue.set_metadata(path, content)


def _kind(before: Known | None, number: int, *, first: bool) -> str:
    """What a file is that was read: its state before, its content's number now."""
    if before is not None:
        return "unchanged" if before.number == number else "changed"
    return "new" if first else "duplicates"


def _digest(path: Path) -> str | OSError:
    try:
        return digest(path)
    except OSError as error:
        return error


def _reason(path: Path, error: OSError) -> str:
    return "broken link" if path.is_symlink() else (error.strerror or str(error))


def _has_changed(path: Path, before: tuple[int, int]) -> bool:
    with suppress(OSError):
        return stamp(path) != before
    return True
