"""The frozen tower's features of images in a folder: written once, read in any order.

A folder holds the features of one tower under one set of settings. Its shards together are its only
content. A stopped command therefore goes on with the missing images, and images may be added later.
Shapes: L visual tokens, Dv vision width.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from gatedcir.data.left_out import LIST
from gatedcir.data.readable import RECORD
from gatedcir.data.sources import FeatureSource, PixelSource
from gatedcir.errors import UserError, check_folder_to_write
from gatedcir.features import shards
from gatedcir.features.encode import Encoder, encode_images, progress_bar
from gatedcir.features.shards import Entry, ImageFile, ShardSource
from gatedcir.files import check_was_read, digest, parse_json, stamp, write_json
from gatedcir.resources import GIB

SHARD_BYTES = 2**28  # a killed process loses at most this, and a process holds this in memory
_MANIFEST = "manifest.json"
_PREFIX = "vision-"  # of the folders of single settings
_PAUSE = 2.0  # seconds from one look at other processes' shards to the next
_Places = dict[str, tuple[Path, int]]


def check_parent(path: Path) -> None:
    """UserError if features cannot be kept in a folder, or if it holds other things only."""
    check_folder_to_write(path, "--cache-features")
    names = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
    if names and not any(name.startswith(_PREFIX) or name in (RECORD, LIST) for name in names):
        raise UserError(
            f"--cache-features {path} holds {names[0]} and no features; name a new folder."
        )


@dataclass(frozen=True)
class FeatureFolder:
    """Features under one set of settings.

    Attributes:
        path: the folder. It is made when something is written.
        settings: everything other than the image that features depend on, in words.
        shapes: (L, Dv) of each layer.
        dtype: the type that they are stored in.
    """

    path: Path
    settings: Mapping[str, str]
    shapes: Sequence[tuple[int, int]]
    dtype: torch.dtype

    @classmethod
    def below(
        cls,
        parent: Path,
        settings: Mapping[str, str],
        *,
        shapes: Sequence[tuple[int, int]],
        dtype: torch.dtype,
    ) -> "FeatureFolder":
        """The folder named by its settings' hash, so that several models share `parent`."""
        text = json.dumps(dict(settings), sort_keys=True)
        name = f"{_PREFIX}{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        return cls(parent / name, settings, shapes, dtype)

    @property
    def bytes_per_image(self) -> int:
        """Size of one image's features."""
        return sum(tokens * width for tokens, width in self.shapes) * self.dtype.itemsize

    def missing(self, paths: Mapping[str, Path]) -> list[str]:
        """Names of the missing images, sorted. Raises UserError as `open` does."""
        return sorted(paths.keys() - self._places(paths).keys())

    def open(self, paths: Mapping[str, Path]) -> ShardSource:
        """The features of images, left on the disk.

        Raises:
            UserError: the folder was made with other settings, a shard is damaged or cut short, or
                an image has changed since it was encoded.
            KeyError: an image is missing.
        """
        places = self._places(paths)
        return ShardSource({name: places[name] for name in paths})

    def load(self, paths: Mapping[str, Path]) -> FeatureSource:
        """The features of images, read into memory. Raises as `open` does."""
        source = self.open(paths)
        names = sorted(paths, key=source.places.__getitem__)  # as they lie on the disk
        levels = [torch.empty(len(names), *shape, dtype=self.dtype) for shape in self.shapes]
        for row, name in enumerate(names):
            for level, feature in zip(levels, source[name], strict=True):
                level[row] = feature
        return FeatureSource({name: row for row, name in enumerate(names)}, levels)

    def fill(
        self,
        source: PixelSource,
        encode: Encoder,
        *,
        batch_size: int,
        num_workers: int,
        progress: bool = True,
    ) -> None:
        """Encode the images of a source that are missing. `encode` gives the folder's own type.

        Any number of processes may do so at once, on one machine or on several that share the disk.
        Each takes the next free shard, and all return when all shards are written. A process that
        dies loses the shard that it worked on. Another process then takes this shard.

        Raises:
            UserError: as `open`; the disk is too full; an image is broken; a feature is not finite.
        """
        missing = self.missing(source.paths)
        if not missing:
            return
        self._check_room(len(missing))
        self._write_manifest()
        total = len(missing)
        with progress_bar(total, show=progress) as bar:
            while missing:
                wrote = False
                for names in self._portions(source.paths, set(missing), batch_size):
                    with self._claim(names) as shard:
                        if shard is None:
                            continue
                        before = [stamp(source.paths[name]) for name in names]
                        levels = encode_images(
                            source,
                            names,
                            encode,
                            batch_size=batch_size,
                            num_workers=num_workers,
                            bar=bar,
                        )
                        self._check_finite(levels)
                        files = [source.paths[name] for name in names]
                        shards.write(shard, list(map(_entry, names, files, before)), levels)
                        wrote = True
                missing = self.missing(source.paths)
                bar.update(total - len(missing) - bar.n)  # images that others encoded meanwhile
                if missing and not wrote:
                    time.sleep(_PAUSE)

    def _portions(
        self, paths: Mapping[str, Path], missing: set[str], batch_size: int
    ) -> Iterator[list[str]]:
        """The missing images by shards, cut the same way in all processes and after every stop.

        Shards are whole batches. Every image is in the same batch as when all are encoded at once.
        """
        rows = max(1, SHARD_BYTES // (self.bytes_per_image * batch_size)) * batch_size
        names = sorted(paths)
        for start in range(0, len(names), rows):
            portion = [name for name in names[start : start + rows] if name in missing]
            if portion:
                yield portion

    @contextmanager
    def _claim(self, names: list[str]) -> Iterator[Path | None]:
        """The file to write for these images. None if another process writes it or has written it.

        The lock ends with the process that holds it, even if that process is killed.
        """
        name = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
        shard, file = self.path / (name + shards.SUFFIX), self.path / f"{name}.lock"
        lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield None
            return
        try:
            yield None if shard.exists() else shard
        finally:
            if shard.exists():  # else two processes could hold locks on an old and a new file
                with suppress(OSError):  # Windows removes it when it is closed
                    file.unlink()
            lock.release()

    def _write_manifest(self) -> None:
        write_json(self.path / _MANIFEST, dict(self.settings))

    def _check_room(self, images: int) -> None:
        """UserError if the disk has no room for the features of so many images."""
        place = next(p for p in (self.path, *self.path.absolute().parents) if p.is_dir())
        needed, free = images * self.bytes_per_image, shutil.disk_usage(place).free
        if needed > free:
            raise UserError(
                f"the vision features of {images} images take {needed / GIB:.2f} GiB, and "
                f"{self.path.parent} has {free / GIB:.2f} GiB free; name a folder on another disk "
                "with --cache-features, or pass --cache-dtype bf16."
            )

    def _check_finite(self, levels: Sequence[torch.Tensor]) -> None:
        # One number that is not finite makes the least or the greatest so. `isfinite` takes 30
        # times as long.
        if not all(torch.stack(level.aminmax()).isfinite().all() for level in levels):
            raise UserError(
                f"the vision features are not all finite in {self.dtype}; pass --cache-dtype bf16 "
                "or fp32, or check the weights."
            )

    def _places(self, paths: Mapping[str, Path]) -> _Places:
        """Shard and row of the images that are there, after a comparison with their files."""
        found: _Places = {}
        if not self.path.is_dir():
            return found
        self._check_manifest()
        for shard in sorted(self.path.glob(f"*{shards.SUFFIX}")):
            for row, entry in enumerate(shards.read_entries(shard, self.shapes, self.dtype)):
                if entry.name in paths and entry.name not in found:
                    self._check_image(paths[entry.name], entry.file)
                    found[entry.name] = shard, row
        return found

    def _check_manifest(self) -> None:
        """UserError if the folder was made with other settings than its name says."""
        file = self.path / _MANIFEST
        if not file.is_file() and not any(self.path.glob(f"*{shards.SUFFIX}")):
            return  # another process is about to write it
        try:
            settings = dict(parse_json(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            check_was_read(file, error)
            raise UserError(
                f"{file} is missing or damaged; delete the folder {self.path}."
            ) from None
        for name in {**self.settings, **settings}:
            there, wanted = settings.get(name), self.settings.get(name)
            if there != wanted:
                raise UserError(
                    f"the feature cache {self.path} was made with another {name} ({there}, not "
                    f"{wanted}); delete the folder."
                )

    def _check_image(self, path: Path, before: ImageFile) -> None:
        """UserError if an image has changed since it was encoded.

        Size and time are compared first. A file with another time, such as a copy, is then read.
        """
        now = stamp(path)
        if now == (before.size, before.modified):
            return
        if now[0] != before.size or digest(path) != before.digest:
            raise UserError(
                f"the image {path} is another than the one in the feature cache {self.path}; "
                "delete that folder, or name another one with --cache-features."
            )


def _entry(name: str, path: Path, before: tuple[int, int]) -> Entry:
    """An image that was just encoded. UserError if its file changed meanwhile."""
    content = digest(path)
    if stamp(path) != before:
        raise UserError(f"the image {path} changed while it was read; run the command again.")
    return Entry(name, ImageFile(*before, content))
