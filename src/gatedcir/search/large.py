"""The index for a large gallery on one machine: a first stage in memory, then exact scores.

The first stage holds codes of all features in inverted lists. Its candidates are scored by the
features themselves, which only the disk holds, as in the exact index. What the first stage does not
list yet is always a candidate. So nothing is lost if a process is killed, and the lists are brought
up to date when it saves. Shapes: B images, M queries, P parts, K kept, E embedding width.
"""

import shutil
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from gatedcir.benchmarks.ranks import Indices
from gatedcir.errors import UserError
from gatedcir.files import UNFINISHED, remove_unfinished
from gatedcir.progress import bar
from gatedcir.search.exact import as_rows
from gatedcir.search.index import Features, Floats, Form
from gatedcir.search.ivfpq import FirstStage, Lists, Marks, as_marks
from gatedcir.search.segments import SegmentedIndex

LEAST = 320_000  # features, below which the exact search is as fast
_STAGE = "lists-"
_CANDIDATES = 300  # images that are scored, at least
_FOR_EACH = 8  # images that are scored for each one kept
_SHARE = 2  # of fewer images than so many times the candidates, all are scored
_AT_ONCE = 1024  # images that are listed together


class LargeIndex(SegmentedIndex):
    """A `StoredIndex` whose answers are exact among the candidates of its first stage.

    With fewer than `LEAST` features it has no first stage, and all its answers are exact.
    """

    def __init__(self, folder: Path, form: Form) -> None:
        self.lists = Lists.read(folder)
        self._stage: FirstStage | None = None
        self._place: Path | None = None  # of the first stage
        self._unlisted: Indices = np.empty(0, np.int64)
        super().__init__(folder, form)

    @classmethod
    def open(cls, folder: Path, form: Form, *, writable: bool = False) -> Self:
        """As `StoredIndex`."""
        if writable:
            remove_unfinished(folder)
        return super().open(folder, form, writable=writable)

    def refresh(self) -> None:
        """As `StoredIndex`. A first stage that cannot be read is made again by `save`."""
        super().refresh()
        place = max(self._stages(), key=lambda one: one.stat().st_mtime, default=None)
        if place is not None and place != self._place:
            self._place = place
            try:
                self._stage = FirstStage.load(place, self.lists)
            except UserError as error:
                warnings.warn(f"{error} Until then, searches are exact and slow.", stacklevel=2)
        if self._stage is not None:
            numbers, marks = self._images()
            self._unlisted = numbers[~self._stage.listed(numbers, marks)]

    def _stages(self) -> list[Path]:
        """All first stages that are there. A process that was killed may have left an old one."""
        return [place for place in self.folder.glob(f"{_STAGE}*") if place.suffix != UNFINISHED]

    def _images(self) -> tuple[Indices, Marks]:
        """Numbers and marks of all images, in the order of the segments."""
        numbers = [np.empty(0, np.int64), *(segment.numbers for segment in self._segments)]
        marks = [as_marks(segment.digests) for segment in self._segments]
        return np.concatenate(numbers), np.concatenate([as_marks([]), *marks])

    def add(self, numbers: Sequence[int], digests: Sequence[str], features: Features) -> None:
        """As `StoredIndex`. The images are listed by `save`."""
        super().add(numbers, digests, features)
        self._unlisted = np.union1d(self._unlisted, numbers)

    def save(self) -> None:
        """As `StoredIndex`, and bring the first stage up to date.

        It is trained if it is missing, or if there should be more lists by now. Warns if there are
        too few images.
        """
        super().save()
        numbers, marks = self._images()
        tokens = len(numbers) * self.form.tokens
        if tokens < LEAST:
            warnings.warn(
                f"{self.folder} has {len(numbers)} images, too few to train lists on; below "
                f"{-(-LEAST // self.form.tokens)} images, a large index is searched as an exact "
                "one.",
                stacklevel=2,
            )
            return
        stage = self._stage
        by_size = self.lists.nlist is None
        if stage is None or (by_size and self.lists.count(tokens) > stage.index.nlist):
            stage = FirstStage.trained(self.lists, tokens, self._sample(tokens))
        kept = numbers[stage.listed(numbers, marks)]
        gone = np.setdiff1d(stage.numbers, kept)
        if stage is self._stage and len(kept) == len(numbers) and not len(gone):
            return
        stage.remove(gone)
        for segment in bar(list(self._segments), desc="listing", unit="file", leave=False):
            marks = as_marks(segment.digests)
            rows = np.flatnonzero(~stage.listed(segment.numbers, marks))
            features = self._tokens_of(segment, rows) if len(rows) else None
            if features is not None:
                stage.add(segment.numbers[rows], marks[rows], features[torch.from_numpy(rows)])
        old = self._stages()
        self._place = self.folder / f"{_STAGE}{uuid.uuid4().hex[:8]}"
        stage.save(self._place)
        for place in old:
            shutil.rmtree(place, ignore_errors=True)
        self._stage = stage
        self._unlisted = np.empty(0, np.int64)

    def _sample(self, tokens: int) -> torch.Tensor:
        """Features of random images to train on: [B, Q, E]."""
        share = self.lists.sample(tokens) / tokens
        rng = np.random.default_rng(0)
        found = []
        for segment in list(self._segments):
            count = len(segment.numbers)
            rows = np.sort(rng.permutation(count)[: int(np.ceil(share * count))])
            features = self._tokens_of(segment, rows)
            if features is not None:
                found.append(features[torch.from_numpy(rows)])
        return torch.cat(found)

    def search(
        self, queries: Features, k: int, among: Indices | None = None
    ) -> tuple[Floats, Indices]:
        """As `StoredIndex`, of the images that the first stage names."""
        self.form.check_query(queries, k)
        stage, unlisted = self._stage, self._unlisted
        count = max(_CANDIDATES, _FOR_EACH * k)
        if stage is not None:
            pool = len(stage.numbers) if among is None else len(among)
        if stage is None or pool < _SHARE * count:
            return super().search(queries, k, among)
        if among is not None:
            unlisted = np.intersect1d(unlisted, among)
        rows = as_rows(queries, self.form.dim, "query").reshape(queries.shape)  # [M, P, E]
        found = []
        for query in rows:
            images = stage.candidates(query, count, among)
            if len(unlisted):
                images = np.union1d(images, unlisted)
            enough = len(images) >= min(k, pool)
            found.append(super().search(query[None], k, images if enough else among))
        scores, numbers = zip(*found, strict=True)
        return np.concatenate(scores), np.concatenate(numbers)

    def info(self) -> dict[str, Any]:
        """As `StoredIndex`, with the first stage."""
        found, stage = super().info(), self._stage
        if stage is None:
            return found | {"first stage": "none; every search reads all features"}
        files = [file for place in self._stages() for file in place.iterdir()]
        index = stage.index
        return found | {
            "bytes": found["bytes"] + sum(file.stat().st_size for file in files),
            "first stage": f"{index.ntotal} features in {index.nlist} lists, "
            f"{index.code_size} bytes each",
            "bytes in memory": stage.memory,
        }
