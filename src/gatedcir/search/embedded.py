"""The index in Qdrant Edge, a database engine inside this process (the extra `qdrant`).

Its multivectors with MaxSim are this project's similarity. One process at a time can open it.
Shapes: B images, Q query tokens, E embedding width, M queries, P parts, K kept.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from gatedcir.benchmarks.ranks import Indices
from gatedcir.errors import UserError, reason_of
from gatedcir.files import room_for
from gatedcir.search.exact import as_rows
from gatedcir.search.index import Features, Floats, Form

_AT_ONCE = 256  # points of an update, and of a page that is listed
_DIGEST = "digest"


class EmbeddedIndex:
    """A `StoredIndex` that a database engine searches. Its answers are exact."""

    def __init__(self, folder: Path, form: Form, shard: Any) -> None:
        self.folder, self.form, self._shard = folder, form, shard
        self.damaged: dict[Path, str] = {}

    @classmethod
    def open(cls, folder: Path, form: Form, *, writable: bool = False) -> Self:
        """As `StoredIndex`.

        Raises:
            UserError: the engine is not installed, another process has the folder open, or the
                engine cannot read it.
        """
        edge = _engine()
        try:
            if (folder / "edge_config.json").is_file():
                shard = edge.EdgeShard.load(str(folder))
            else:
                folder.mkdir(parents=True, exist_ok=True)
                shard = edge.EdgeShard.create(str(folder), _config(form))
        except Exception as error:  # the engine's errors have no class of their own
            reason = reason_of(error)
            if "WouldBlock" in reason:
                raise UserError(
                    f"{folder} is in use by another process; wait until it ends, or keep the index "
                    "in an exact one, which several processes can read."
                ) from None
            raise UserError(
                f"{folder} is damaged ({reason}); delete it, and its images are encoded again."
            ) from None
        return cls(folder, form, shard)

    def entries(self) -> dict[int, str]:
        """As `StoredIndex`."""
        edge, after = _engine(), None
        found: dict[int, str] = {}
        while True:
            page, after = self._shard.scroll(
                edge.ScrollRequest(offset=after, limit=_AT_ONCE, with_payload=True)
            )
            found |= {point.id: point.payload[_DIGEST] for point in page}
            if after is None:
                return found

    def add(self, numbers: Sequence[int], digests: Sequence[str], features: Features) -> None:
        """As `StoredIndex`. UserError if a feature is NaN or infinite."""
        edge = _engine()
        self.form.check(features, len(numbers))
        tokens = as_rows(features, self.form.dim, "gallery").reshape(
            len(numbers), self.form.tokens, self.form.dim
        )
        with room_for(self.folder, size=tokens.nbytes):
            for start in range(0, len(numbers), _AT_ONCE):
                some = slice(start, start + _AT_ONCE)
                each = zip(numbers[some], digests[some], tokens[some], strict=True)
                points = [
                    edge.Point(number, rows, {_DIGEST: digest}) for number, digest, rows in each
                ]
                self._shard.update(edge.UpdateOperation.upsert_points(points))
            self._shard.flush()

    def remove(self, numbers: Sequence[int]) -> None:
        """As `StoredIndex`."""
        edge = _engine()
        self._shard.update(edge.UpdateOperation.delete_points(list(numbers)))
        self.save()

    def save(self) -> None:
        """Let the engine merge and clean its segments."""
        self._shard.optimize()
        self._shard.flush()

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
        scores /= parts  # the engine adds up the parts
        return scores, numbers

    def _best(self, query: Floats, k: int, among: Indices | None) -> list[tuple[float, int]]:
        """The best images of one query [P, E]. More are asked for until equal scores are whole."""
        edge = _engine()
        chosen = None
        if among is not None:
            chosen = edge.Filter(must=[edge.HasIdCondition(set(among.tolist()))])
        asked = k + 1
        while True:
            request = edge.QueryRequest(
                limit=asked,
                query=edge.Query.Nearest(query.tolist()),
                filter=chosen,
                params=edge.SearchParams(exact=True),
            )
            found = sorted((-point.score, point.id) for point in self._shard.query(request))
            if len(found) < asked or found[-1][0] > found[k - 1][0]:
                return [(-score, number) for score, number in found[:k]]
            asked *= 2

    def features(self, numbers: Sequence[int]) -> Floats:
        """As `StoredIndex`."""
        points = self._shard.retrieve(list(numbers), with_payload=False, with_vector=True)
        vectors = {point.id: point.vector for point in points}
        return np.array([vectors[number] for number in numbers], dtype=np.float32)

    def refresh(self) -> None:
        """Only this process can have the folder open."""

    def check(self) -> None:
        """The engine checks its own files when it opens them."""

    def close(self) -> None:
        """Give the engine's lock back."""
        self._shard.close()

    def info(self) -> dict[str, Any]:
        """As `StoredIndex`."""
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        return {
            "segments": self._shard.info().segments_count,
            "bytes": sum(file.stat().st_blocks * 512 for file in files),  # the log is sparse
        }


def _engine() -> Any:
    """The module. UserError if it is not installed."""
    try:
        import qdrant_edge
    except ImportError:
        raise UserError(
            "an embedded index needs qdrant-edge-py, which is not installed; run pip install "
            "'gatedcir[qdrant]', or make an index of the kind exact."
        ) from None
    return qdrant_edge


def _config(form: Form) -> Any:
    edge = _engine()
    kinds = edge.VectorStorageDatatype
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(
            size=form.dim,
            distance=edge.Distance.Dot,
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            datatype=kinds.Float16 if form.precision == "fp16" else kinds.Float32,
        ),
        # Every search is exact. A graph over all tokens would take minutes and serve none.
        hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=10**9),
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=0),
    )
