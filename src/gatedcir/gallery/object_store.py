"""Images of an object store -> copies of them in the index's folder, where they are shown from.

A store is any address that fsspec opens: s3://, gs://, abfs://, hf://, sftp:// and others, each
with a package of its own. An object is copied once, and again if its entry in the listing changes.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath
from typing import Any, Self

from fsspec.core import url_to_fs
from fsspec.utils import tokenize

from gatedcir.data.image_files import endings
from gatedcir.errors import UserError, reason_of
from gatedcir.files import parse_json, whole_file, write_json
from gatedcir.progress import bar

COPIES, NOTE = "images", "images.json"


@dataclass(frozen=True)
class ObjectStore:
    """The images of an address."""

    address: str
    files: Any
    """The file system of fsspec."""
    images: Mapping[str, tuple[str, str]]
    """Name below the address -> name in the store, and a hash of the object's entry."""

    @classmethod
    def open(cls, address: str) -> Self:
        """List the images of an address. Names that begin with a dot are left out.

        Raises:
            UserError: fsspec does not know the address, or its package is missing; the store does
                not answer; it holds no image, or one whose name leads out of a folder.
        """
        try:
            files, root = url_to_fs(address)
            found = files.find(root, detail=True)
        except Exception as error:  # of the stores' own packages, which have no common base
            raise UserError(
                f"{address} cannot be listed ({reason_of(error)}); check the address, and its "
                "package and key."
            ) from None
        images = {}
        for name, entry in sorted(found.items()):
            below = PurePosixPath(name.removeprefix(root).lstrip("/"))
            if ".." in below.parts:
                raise UserError(f"the object {name!r} of {address} leads out of a folder.")
            hidden = any(part.startswith(".") for part in below.parts)
            if not hidden and below.suffix.lower() in endings():
                images[str(below)] = name, tokenize(entry)
        if not images:
            raise UserError(
                f"{address} holds no image with an ending that Pillow reads (.jpg, .png, .webp, "
                "...); name another address."
            )
        return cls(address, files, images)

    def copy_to(self, index: Path, *, num_workers: int, watch_deleted: bool) -> Path:
        """Copy what is new or has changed into a folder of the index. Returns that folder.

        Args:
            index: the index's folder, which this process alone writes.
            num_workers: threads that copy.
            watch_deleted: delete the copies of objects that are gone. Without it they stay.

        Raises:
            UserError: an object cannot be copied. The copies that were made are kept.
        """
        folder, note = index / COPIES, index / NOTE
        there = _read(note)
        if watch_deleted:
            for name in there.keys() - self.images.keys():
                with suppress(FileNotFoundError):
                    (folder / name).unlink()
                del there[name]
        new = [
            (name, place, entry)
            for name, (place, entry) in self.images.items()
            if there.get(name) != entry or not (folder / name).is_file()
        ]

        def copy(one: tuple[str, str, str]) -> tuple[str, str, Exception | None]:
            name, place, entry = one
            try:
                with whole_file(folder / name) as unfinished:
                    self.files.get_file(place, str(unfinished))
            except Exception as error:  # as in `open`
                return name, entry, error
            return name, entry, None

        failed: dict[str, Exception] = {}
        try:
            with ThreadPool(max(1, num_workers)) as pool:
                done = pool.imap_unordered(copy, new)
                for name, entry, error in bar(done, desc="copying", total=len(new), unit="img"):
                    if error is None:
                        there[name] = entry
                    else:
                        failed[name] = error
        finally:  # also after Ctrl-C
            write_json(note, there)
        for name, error in failed.items():
            raise UserError(
                f"{len(failed)} of {len(new)} objects of {self.address} could not be copied, the "
                f"first is {name} ({reason_of(error)}); the same command goes on."
            )
        return folder


def _read(note: Path) -> dict[str, str]:
    """What was copied. A note that is damaged counts as none, and all is copied again."""
    with suppress(OSError, ValueError):
        found = parse_json(note.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}
