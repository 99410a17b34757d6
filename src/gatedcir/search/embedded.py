"""The index in Qdrant Edge, a database engine inside this process (the extra `qdrant`).

Its multivectors with MaxSim are this project's similarity. One process at a time can open it.
Shapes: B images, Q query tokens, E embedding width, M queries, P parts, K kept.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from gatedcir.benchmarks.ranks import Indices
from gatedcir.errors import UserError, reason_of
from gatedcir.files import check_was_read, room_for
from gatedcir.search.database import DatabaseIndex
from gatedcir.search.index import Features, Floats, Form

_AT_ONCE = 256  # points of an update, and of a page that is listed
_DIGEST = "digest"


class EmbeddedIndex(DatabaseIndex):
    """The database is an engine inside this process."""

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
                shard = edge.EdgeShard.create(str(folder), cls._config(form))
        except Exception as error:  # the engine's errors have no class of their own
            reason = reason_of(error)
            if "WouldBlock" in reason:
                raise UserError(
                    f"{folder} is in use by another process; wait until it ends, or keep the index "
                    "in an exact one, which several processes can read."
                ) from None
            check_was_read(folder, error)
            raise _damaged(folder, reason) from None
        return cls(folder, form, shard)

    def entries(self) -> dict[int, str]:
        """As `StoredIndex`."""
        edge, after = _engine(), None
        found: dict[int, str] = {}
        while True:
            page, after = self._shard.scroll(
                edge.ScrollRequest(offset=after, limit=_AT_ONCE, with_payload=True)
            )
            try:
                found |= {point.id: point.payload[_DIGEST] for point in page}
            except (KeyError, TypeError):
                raise _damaged(self.folder, "an image has no digest") from None
            if after is None:
                return found

    def add(self, numbers: Sequence[int], digests: Sequence[str], features: Features) -> None:
        """As `StoredIndex`. UserError if a feature is NaN or infinite."""
        edge = _engine()
        tokens = self._images(features, len(numbers))
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

    def _nearest(self, query: Floats, count: int, among: Indices | None) -> list[tuple[float, int]]:
        edge = _engine()
        chosen = None
        if among is not None:
            chosen = edge.Filter(must=[edge.HasIdCondition(set(among.tolist()))])
        request = edge.QueryRequest(
            limit=count,
            query=edge.Query.Nearest(query.tolist()),
            filter=chosen,
            params=self._params(),
        )
        return [(point.score, point.id) for point in self._shard.query(request)]

    @classmethod
    def _config(cls, form: Form) -> Any:
        """The settings of a new index."""
        edge = _engine()
        kinds = edge.VectorStorageDatatype
        return edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(
                size=form.dim,
                distance=edge.Distance.Dot,
                multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
                datatype=kinds.Float16 if form.precision == "fp16" else kinds.Float32,
            ),
            # Every search is exact. A graph takes 30 times as long as writing (docs/search.md).
            hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=10**9),
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=0),
        )

    @staticmethod
    def _params() -> Any:
        """How a query is searched."""
        return _engine().SearchParams(exact=True)

    def _vectors(self, numbers: Sequence[int]) -> dict[int, Any]:
        points = self._shard.retrieve(list(numbers), with_payload=False, with_vector=True)
        return {point.id: point.vector for point in points}

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


def _damaged(folder: Path, reason: str) -> UserError:
    return UserError(
        f"{folder} is damaged ({reason}); delete it, and its images are encoded again."
    )


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
