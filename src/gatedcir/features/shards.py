"""One file with the features of some images: a shard of a `FeatureFolder`.

A shard is a safetensors file. Its metadata hold the names of the images, the state of their files,
and a checksum of each image's features. Shapes: N images, L visual tokens, Dv vision width.
"""

import json
import os
import socket
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gatedcir.errors import UserError, reason_of
from gatedcir.files import check_was_read, parse_json, room_for, settle
from gatedcir.resources import tensor_bytes

SUFFIX = ".safetensors"
UNFINISHED = ".unfinished"
_KEY, _CHECKSUMS, _OF_NAMES = "images", "crc32", "images-crc32"  # of the metadata


class ImageFile(NamedTuple):
    """The state of an image's file when it was encoded."""

    size: int
    modified: int  # in nanoseconds
    digest: str  # SHA-256 of its content


class Entry(NamedTuple):
    """One row of a shard."""

    name: str
    file: ImageFile


def unfinished(file: Path) -> Path:
    """Where this process writes a file before it gets its name.

    Every process has its own place, even on several machines that share a disk without locks.
    """
    return file.with_suffix(f".{socket.gethostname()}-{os.getpid()}{UNFINISHED}")


def write(shard: Path, entries: Sequence[Entry], levels: Sequence[Tensor]) -> None:
    """Write [N, L, Dv] a layer, whole or not at all. Leftovers of killed processes are removed.

    Raises UserError if there is no room for it.
    """
    for left in shard.parent.glob(f"{shard.stem}.*{UNFINISHED}"):
        left.unlink()
    part = unfinished(shard)
    images = json.dumps([[name, *file] for name, file in entries])
    checksums = [_checksum([level[row] for level in levels]) for row in range(len(entries))]
    metadata = {_KEY: images, _CHECKSUMS: json.dumps(checksums), _OF_NAMES: _sum_of(images)}
    tensors = {str(number): level for number, level in enumerate(levels)}
    with room_for(shard, size=tensor_bytes(tensors)):
        try:
            save_file(tensors, part, metadata=metadata)
            settle(part)
        except Exception:
            part.unlink(missing_ok=True)
            raise
    part.replace(shard)


def read_entries(shard: Path, shapes: Sequence[tuple[int, int]], dtype: torch.dtype) -> list[Entry]:
    """The images of a shard, in the order of its rows. Arguments and errors as `read_rows`."""
    return [
        Entry(name, ImageFile(size, modified, digest))
        for name, size, modified, digest in read_rows(shard, shapes, dtype)
    ]


def read_rows(
    shard: Path, shapes: Sequence[tuple[int, int]], dtype: torch.dtype
) -> list[tuple[str, int, int, str]]:
    """Name, size, time and digest of each image of a shard. Features are not read.

    These are what `Entry` holds, several times faster.

    Args:
        shard: the file.
        shapes: (L, Dv) of each layer, as expected.
        dtype: as expected.

    Raises:
        UserError: the file is damaged, cut short, or holds features of another shape or type.
    """
    try:
        with safe_open(shard, "pt") as content:  # it also checks the file's length
            metadata = content.metadata()
            if metadata.get(_OF_NAMES) not in (None, _sum_of(metadata[_KEY])):
                raise ValueError("the names of its images have another checksum")
            rows = parse_json(metadata[_KEY])
            found = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118
            forms = {name: (s.get_shape(), s.get_dtype()) for name, s in found.items()}
        if not set(map(len, rows)) <= {len(ImageFile._fields) + 1}:
            raise ValueError("its list of images has another form")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        check_was_read(shard, error)
        raise damaged(shard, reason_of(error)) from None
    expected = {str(i): ([len(rows), *s], _NAMES[dtype]) for i, s in enumerate(shapes)}
    if forms != expected:
        raise UserError(
            f"{shard} holds features of another shape or type than its folder says; delete the "
            f"folder {shard.parent}."
        )
    return rows


_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}  # safetensors' own


def _sum_of(images: str) -> str:
    """CRC-32 of the images' names and files. Shards of earlier versions have none."""
    return str(zlib.crc32(images.encode()))


def _checksum(levels: Sequence[Tensor]) -> int:
    """CRC-32 of one image's features, over all layers."""
    found = 0
    for level in levels:
        found = zlib.crc32(level.contiguous().view(torch.uint8).numpy().data, found)
    return found


def damaged(shard: Path, reason: str) -> UserError:
    """The error for a shard whose content is not what was written."""
    return UserError(
        f"{shard} is damaged or cut short ({reason}); delete it, and its images are encoded again."
    )


@dataclass
class _Opened:
    """A shard that this process reads."""

    levels: list[Tensor]
    size: int  # of the file
    unchecked: dict[int, int]  # checksums of the rows that were not read yet


class ShardSource:
    """Features in shards, mapped into memory. The disk is read when an image is asked for.

    Processes of one machine share the system's copy of the files in memory. Each process compares
    an image's features with their checksum when it reads them for the first time. Shards of earlier
    versions have no checksums.
    """

    reads_files: ClassVar[bool] = True
    on_gpu: ClassVar[bool] = False

    def __init__(self, places: Mapping[str, tuple[Path, int]]) -> None:
        """Take the shard of each image, and its row there, by name."""
        self.places = places
        self._opened: dict[Path, _Opened] = {}

    def __getitem__(self, name: str) -> list[Tensor]:
        """One [L, Dv] a layer. Raises UserError if the shard was damaged after it was written."""
        shard, row = self.places[name]
        try:
            size = shard.stat().st_size
            if shard not in self._opened:
                self._opened[shard] = _open(shard, size)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            check_was_read(shard, error)
            raise damaged(shard, reason_of(error)) from None
        opened = self._opened[shard]
        if size != opened.size:  # reading past the new end would kill the process
            raise damaged(shard, "its size has changed")
        levels = [level[row] for level in opened.levels]
        expected = opened.unchecked.get(row)
        if expected is not None and _checksum(levels) != expected:
            raise damaged(shard, f"the features of {name} have another checksum")
        opened.unchecked.pop(row, None)
        return levels

    def __getstate__(self) -> dict[str, Any]:
        """The state without the mapped files, because another process opens them itself."""
        return {"places": self.places, "_opened": {}}


class MappedShard:
    """A shard that is mapped into memory. It stays readable if its name is removed.

    Raises:
        UserError: the shard is damaged or cut short.
    """

    def __init__(self, shard: Path) -> None:
        self.shard = shard
        try:
            self._opened = _open(shard, shard.stat().st_size)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            check_was_read(shard, error)
            raise damaged(shard, reason_of(error)) from None

    def levels(self, rows: Sequence[int] | None = None) -> list[Tensor]:
        """All rows, one [N, ...] a layer. The checksums of `rows` are compared, once. None: of all.

        Raises:
            UserError: the shard was damaged after it was written.
        """
        opened = self._opened
        if self.shard.exists() and self.shard.stat().st_size != opened.size:
            raise damaged(self.shard, "its size has changed")  # reading would kill the process
        for row in list(opened.unchecked) if rows is None else rows:
            expected = opened.unchecked.get(row)
            if expected is None:
                continue
            if _checksum([level[row] for level in opened.levels]) != expected:
                raise damaged(self.shard, f"the features in its row {row} have another checksum")
            del opened.unchecked[row]
        return opened.levels


def _open(shard: Path, size: int) -> _Opened:
    with safe_open(shard, "pt") as content:
        checksums = parse_json((content.metadata() or {}).get(_CHECKSUMS, "[]"))
        levels = [content.get_tensor(str(number)) for number in range(len(content.keys()))]
    return _Opened(levels, size, dict(enumerate(checksums)))
