"""The exact index in a folder: segments of half-precision features, mapped into memory.

A segment is a shard as in a `FeatureFolder`: written whole, with a checksum for each image. The
segments together are the only content, so a killed process loses at most the segment that it wrote.
Shapes: N images of a segment, G images, Q query tokens, E embedding width, M queries, P parts.
"""

import uuid
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
import torch

from gatedcir.benchmarks.ranks import Indices
from gatedcir.errors import UserError
from gatedcir.features import shards
from gatedcir.features.shards import Entry, ImageFile
from gatedcir.search.exact import as_rows, distinct_images, first_of_equals, similarities
from gatedcir.search.index import Features, Floats, Form
from gatedcir.search.scan import Chosen, best_of_each, best_tokens

SEGMENT_BYTES = 2**26  # of a full segment
PRECISIONS = {"fp16": torch.float16, "fp32": torch.float32}
_NONE: Indices = np.empty(0, dtype=np.int64)
_BLOCK_PARTS = 512  # parts of queries multiplied at once
_FEW = 8  # segments that are not full and may stay so
_FEW_FOR_EACH = 16  # images for each one kept, up to which each is scanned alone


class _Segment:
    """One file. Its features are checked when they are read for the first time."""

    def __init__(self, file: Path, form: Form) -> None:
        shapes = [(form.tokens, form.dim)]
        rows = shards.read_rows(file, shapes, PRECISIONS[form.precision])
        self.file = file
        try:
            self.numbers = np.array([int(name) for name, *_ in rows], dtype=np.int64)  # [N]
        except (ValueError, OverflowError):
            raise shards.damaged(file, "an image has no number") from None
        self.digests = [digest for *_, digest in rows]
        self._mapped = shards.MappedShard(file)
        self._lock = Lock()

    def tokens(self, rows: Indices | None = None) -> torch.Tensor:
        """[N, Q, E], of which only `rows` are checked. UserError if the file is damaged."""
        with self._lock:
            [tokens] = self._mapped.levels(None if rows is None else rows.tolist())
            return tokens


class SegmentedIndex:
    """A `StoredIndex` that multiplies a query with all tokens. Its answers are exact."""

    def __init__(self, folder: Path, form: Form) -> None:
        self.folder, self.form = folder, form
        self.damaged: dict[Path, str] = {}
        self._segments: list[_Segment] = []
        self._layout: tuple[list[_Segment], Indices, Indices] = [], _NONE, _NONE  # as `_places`
        self.refresh()

    @classmethod
    def open(cls, folder: Path, form: Form, *, writable: bool = False) -> Self:
        """The index in a folder. Leftovers of killed processes are removed if it may be written."""
        if writable:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f"*{shards.UNFINISHED}"):
                left.unlink()
        return cls(folder, form)

    def refresh(self) -> None:
        """As `StoredIndex`. Segments that are open already stay open."""
        old = {segment.file: segment for segment in self._segments}
        found = []
        for file in sorted(self.folder.glob(f"*{shards.SUFFIX}")):
            if file in self.damaged:
                continue
            try:
                found.append(old.get(file) or _Segment(file, self.form))
            except UserError as error:
                if file.exists():  # else another process has just removed it
                    self._leave_out(file, error)
        self._segments = found

    def entries(self) -> dict[int, str]:
        """As `StoredIndex`."""
        return {
            number: digest
            for segment in self._segments
            for number, digest in zip(segment.numbers.tolist(), segment.digests, strict=True)
        }

    def add(self, numbers: Sequence[int], digests: Sequence[str], features: Features) -> None:
        """As `StoredIndex`. UserError if a feature is NaN or infinite in the index's precision."""
        self.form.check(features, len(numbers))
        precision = PRECISIONS[self.form.precision]
        tokens = torch.from_numpy(as_rows(features, self.form.dim, "gallery")).to(precision)
        if not tokens.isfinite().all():
            raise UserError(
                f"the features are not all finite in {self.form.precision}; index in fp32, or "
                "check the weights."
            )
        self._write(numbers, digests, tokens.view(len(numbers), self.form.tokens, self.form.dim))

    def _write(self, numbers: Sequence[int], digests: Sequence[str], tokens: torch.Tensor) -> None:
        file = self.folder / f"{numbers[0]:010d}-{uuid.uuid4().hex[:8]}{shards.SUFFIX}"
        files = (ImageFile(0, 0, digest) for digest in digests)
        shards.write(file, list(map(Entry, map(str, numbers), files)), [tokens])
        self._segments.append(_Segment(file, self.form))

    def remove(self, numbers: Sequence[int]) -> None:
        """As `StoredIndex`. Segments that hold such images are written again without them."""
        gone = set(numbers)
        for segment in list(self._segments):
            kept = [row for row, number in enumerate(segment.numbers) if int(number) not in gone]
            if len(kept) < len(segment.numbers):
                self._replace([segment], [kept])

    def save(self) -> None:
        """Write small segments together as full ones."""
        small = [segment for segment in self._segments if len(segment.numbers) * 2 <= self._full]
        if len(small) <= _FEW:
            return
        portion: list[_Segment] = []
        for segment in small:
            portion.append(segment)
            if sum(len(one.numbers) for one in portion) >= self._full:
                self._replace(portion, [list(range(len(one.numbers))) for one in portion])
                portion = []
        if len(portion) > 1:
            self._replace(portion, [list(range(len(one.numbers))) for one in portion])

    @property
    def _full(self) -> int:
        """Images of a full segment."""
        size = PRECISIONS[self.form.precision].itemsize * self.form.tokens * self.form.dim
        return max(1, SEGMENT_BYTES // size)

    def _replace(self, old: Sequence[_Segment], kept: Sequence[Sequence[int]]) -> None:
        """Write chosen rows of segments as one segment, and then remove the old files.

        A process that is killed between the two leaves images twice, which does no harm.
        """
        rows = [list(each) for each in kept]
        numbers = np.concatenate([one.numbers[each] for one, each in zip(old, rows, strict=True)])
        if len(numbers):
            digests = [
                one.digests[row] for one, each in zip(old, rows, strict=True) for row in each
            ]
            tokens = [one.tokens()[each] for one, each in zip(old, rows, strict=True)]
            self._write(numbers.tolist(), digests, torch.cat(tokens))
        for segment in old:
            self._segments.remove(segment)
            segment.file.unlink()

    def search(
        self, queries: Features, k: int, among: Indices | None = None
    ) -> tuple[Floats, Indices]:
        """As `StoredIndex`."""
        self.form.check_query(queries, k)
        count, parts = queries.shape[:2]
        rows = as_rows(queries, self.form.dim, "query")  # [M * P, E]
        scores = np.full((count, k), -np.inf, dtype=np.float32)  # [M, k]
        numbers = np.full((count, k), -1, dtype=np.int64)  # [M, k]
        chosen = list(self._chosen(among))
        if not chosen:
            return scores, numbers
        step = max(1, _BLOCK_PARTS // parts)
        for start in range(0, count, step):
            some = slice(start, start + step)
            part = rows[start * parts : (start + step) * parts]  # [m * P, E]
            if len(rows) == 1:
                best, images = _scan(part[0], chosen, k)
            else:
                best, images = _multiply(part, parts, chosen, k)
            scores[some, : best.shape[1]], numbers[some, : best.shape[1]] = best, images
        return scores, numbers

    def _chosen(self, among: Indices | None) -> Iterator[Chosen]:
        """The images to rank, segment by segment."""
        if among is None:
            every = [(one, np.arange(len(one.numbers))) for one in list(self._segments)]
        for segment, rows in every if among is None else self._places(among):
            tokens = self._tokens_of(segment, None if among is None else rows)
            if tokens is not None:
                yield Chosen(tokens, segment.numbers, rows)

    def _places(self, numbers: Indices) -> list[tuple[_Segment, Indices]]:
        """Segments and their rows, ascending, of those images that are there."""
        segments, known, places = self._layout
        if segments != self._segments:
            segments = list(self._segments)
            each = [(n << 32) + np.arange(len(one.numbers)) for n, one in enumerate(segments)]
            known = np.concatenate([_NONE, *(one.numbers for one in segments)])
            known, first = np.unique(known, return_index=True)
            places = np.concatenate([_NONE, *each])[first]  # segment << 32 | row
            self._layout = segments, known, places
        at = np.searchsorted(known, numbers)
        at = at[at < len(known)]
        found = np.unique(places[at[np.isin(known[at], numbers)]])
        which, starts = np.unique(found >> 32, return_index=True)
        rows = np.split(found & 0xFFFFFFFF, starts[1:])
        return [(segments[n], some) for n, some in zip(which.tolist(), rows, strict=False)]

    def _tokens_of(self, segment: _Segment, rows: Indices | None = None) -> torch.Tensor | None:
        """As `_Segment.tokens`. None if it is damaged; it is then left out from now on."""
        try:
            return segment.tokens(rows)
        except UserError as error:
            if segment in self._segments:
                self._segments.remove(segment)
            self._leave_out(segment.file, error)
            return None

    def _leave_out(self, file: Path, error: UserError) -> None:
        self.damaged[file] = str(error)
        warnings.warn(f"{error} The other images can be searched.", stacklevel=2)

    def features(self, numbers: Sequence[int]) -> Floats:
        """As `StoredIndex`."""
        places = {
            int(segment.numbers[row]): (segment, row)
            for segment in self._segments
            for row in np.flatnonzero(np.isin(segment.numbers, numbers))
        }
        found = [places[number] for number in numbers]
        return np.stack(
            [segment.tokens(np.array([row]))[row].float().numpy() for segment, row in found]
        )

    def check(self) -> None:
        """Read every segment. Damaged ones are then in `damaged`."""
        for segment in list(self._segments):
            self._tokens_of(segment)

    def close(self) -> None:
        """Nothing is held."""

    def info(self) -> dict[str, Any]:
        """As `StoredIndex`."""
        files = [segment.file for segment in self._segments]
        return {"segments": len(files), "bytes": sum(file.stat().st_size for file in files)}


def _multiply(rows: Floats, parts: int, chosen: Sequence[Chosen], k: int) -> tuple[Floats, Indices]:
    """Scores and images [m, K] of queries [m * P, E], by products with all features."""
    queries = torch.from_numpy(rows)
    found = torch.cat([similarities(queries, some.features()) for some in chosen], dim=1)
    return _kept(found.unflatten(0, (-1, parts)).mean(1), chosen, k)


def _kept(scores: torch.Tensor, chosen: Sequence[Chosen], k: int) -> tuple[Floats, Indices]:
    """The best K of the scores [m, n] of all images."""
    which = np.concatenate([some.numbers[some.rows] for some in chosen])  # [n]
    which, order = np.unique(which, return_index=True)  # in a second copy an image counts once
    best, places = first_of_equals(scores[:, torch.from_numpy(order)], min(k, len(which)))
    return best.numpy(), which[places.numpy()]


def _scan(query: Floats, chosen: Sequence[Chosen], k: int) -> tuple[Floats, Indices]:
    """As `_multiply` for a query of one part [E], and faster.

    Of many images, the best tokens are found. The Q * k best of them are of k images or more. With
    one token more, the scan sees whether another image is as good as the last one kept. It then
    fetches more.
    """
    images = sum(len(some.rows) for some in chosen)
    if images <= _FEW_FOR_EACH * k:
        scores = np.concatenate([best_of_each(query, some) for some in chosen])
        return _kept(torch.from_numpy(scores)[None], chosen, k)
    tokens = chosen[0].tokens.shape[1]
    fetch = tokens * k + 1
    while True:
        scores, owners = best_tokens(query, chosen, min(fetch, tokens * images))
        best, which = distinct_images(scores[None], owners[None], k)
        if fetch >= tokens * images or best[0, -1] > scores[-1]:
            kept = np.isfinite(best[0])  # of an image with two copies the rest is not
            return best[:, kept], which[:, kept]
        fetch *= 2
