"""What the indexes in a database share: exact searches, with equal scores in order.

Multivectors with MaxSim are this project's similarity. Shapes: B images, Q query tokens,
E embedding width, M queries, P parts, K kept.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from gatedcir.benchmarks.ranks import Indices
from gatedcir.search.exact import as_rows
from gatedcir.search.index import Features, Floats, Form


class DatabaseIndex(ABC):
    """The searches of a `StoredIndex` that a database keeps. Its answers are exact."""

    form: Form

    @abstractmethod
    def _nearest(self, query: Floats, count: int, among: Indices | None) -> list[tuple[float, int]]:
        """Score and number of the `count` best images for a query [P, E], of `among` if given.

        A score is the sum over the parts.
        """

    @abstractmethod
    def _vectors(self, numbers: Sequence[int]) -> dict[int, Any]:
        """The features [Q, E] of those images that are there, by number."""

    def _images(self, features: Features, count: int) -> Floats:
        """The features of `count` images, checked: [B, Q, E]."""
        self.form.check(features, count)
        rows = as_rows(features, self.form.dim, "gallery")
        return rows.reshape(count, self.form.tokens, self.form.dim)

    def search(
        self, queries: Features, k: int, among: Indices | None = None
    ) -> tuple[Floats, Indices]:
        """As `StoredIndex`."""
        self.form.check_query(queries, k)
        count, parts = queries.shape[:2]
        rows = as_rows(queries, self.form.dim, "query").reshape(count, parts, self.form.dim)
        scores = np.full((count, k), -np.inf, dtype=np.float32)  # [M, k]
        numbers = np.full((count, k), -1, dtype=np.int64)  # [M, k]
        for number, query in enumerate(rows):
            found = self._best(query, k, among)
            scores[number, : len(found)] = [score for score, _ in found]
            numbers[number, : len(found)] = [which for _, which in found]
        scores /= parts
        return scores, numbers

    def _best(self, query: Floats, k: int, among: Indices | None) -> list[tuple[float, int]]:
        """The best images of one query [P, E]. More are asked for until equal scores are whole."""
        asked = k + 1
        while True:
            found = sorted((-score, number) for score, number in self._nearest(query, asked, among))
            if len(found) < asked or found[-1][0] > found[k - 1][0]:
                return [(-score, number) for score, number in found[:k]]
            asked *= 2

    def features(self, numbers: Sequence[int]) -> Floats:
        """As `StoredIndex`."""
        vectors = self._vectors(numbers)
        return np.array([vectors[number] for number in numbers], dtype=np.float32)
