"""The index on a Qdrant server or cluster (the extra `qdrant-server`).

The folder holds only where it is: `server.json` with the address and the collection's name. The key
of the server comes from the environment variable QDRANT_API_KEY and is written nowhere.
Shapes: B images, Q query tokens, E embedding width, M queries, P parts, K kept.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self
from uuid import uuid4

import numpy as np

from gatedcir.benchmarks.ranks import Indices
from gatedcir.errors import UserError, reason_of
from gatedcir.files import check_was_read, parse_json, write_json
from gatedcir.search.database import DatabaseIndex
from gatedcir.search.index import Features, Floats, Form

KEY = "QDRANT_API_KEY"
PLACE = "server.json"
_AT_ONCE = 64  # points of an update: 2 MB at 32 features of 256 numbers
_PAGE = 1024  # points of a page that is listed
_TRIES = 5  # of an update
_DIGEST = "digest"


@dataclass(frozen=True)
class Server:
    """Where an index is: the `Settings` of its kind."""

    kind: ClassVar[str] = "server"
    meant: ClassVar[str] = "its address"
    url: str
    collection: str
    shards: int = 1
    """Parts of the collection, over the machines of a cluster."""
    replicas: int = 1
    """Copies of each part."""

    @classmethod
    def new(cls, url: str, *, shards: int = 1, replicas: int = 1) -> Self:
        """A collection of its own. UserError if the address holds a password."""
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise UserError(
                f"the address of the server holds a name or a password, which the index would keep "
                f"and show; leave it out, and set {KEY}."
            )
        return cls(url, f"gatedcir-{uuid4().hex[:12]}", shards, replicas)

    def reach(self) -> None:
        """UserError if the server does not answer, before anything is written."""
        with answers(self.url):
            client = connect(self.url)
            client.get_collections()
            client.close()

    def write(self, folder: Path) -> None:
        """Note it in an index's folder.

        What a process noted that was killed at once stays: its collection may be there already.
        """
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / PLACE
        with suppress(UserError):  # it is damaged
            if file.is_file() and replace(Server.read(folder), collection=self.collection) == self:
                return
        write_json(file, asdict(self))

    def noted(self) -> dict[str, Any]:
        """As `Settings`. Each index has a collection of its own."""
        return asdict(self) | {"collection": None}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """UserError if the folder does not say where its index is."""
        file = folder / PLACE
        try:
            return cls(**parse_json(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            check_was_read(file, error)
            raise UserError(
                f"{file} does not say where the index is ({reason_of(error)}); put a copy back, or "
                "make an index of the kind server with an address."
            ) from None


class ServerIndex(DatabaseIndex):
    """The database is elsewhere."""

    def __init__(self, place: Server, form: Form, client: Any) -> None:
        self.place, self.form, self._client = place, form, client
        self.damaged: dict[Path, str] = {}

    @property
    def _size(self) -> int:
        """Bytes of an image's features."""
        return self.form.tokens * self.form.dim * (2 if self.form.precision == "fp16" else 4)

    @classmethod
    def open(cls, folder: Path, form: Form, *, writable: bool = False) -> Self:
        """As `StoredIndex`.

        Raises:
            UserError: the client is not installed, the server does not answer or wants a key, or
                the collection is missing and may not be made.
        """
        place = Server.read(folder)
        with answers(place.url):
            found = cls(place, form, connect(place.url))
            there = found._client.collection_exists(place.collection)
            if not there and writable:
                found._create()
            elif not there:
                raise UserError(
                    f"{place.url} has no collection {place.collection}; index the images again "
                    "into another folder."
                )
        return found

    def _create(self) -> None:
        models = _models()
        kinds = models.Datatype
        self._client.create_collection(
            self.place.collection,
            vectors_config=models.VectorParams(
                size=self.form.dim,
                distance=models.Distance.DOT,
                on_disk=True,
                datatype=kinds.FLOAT16 if self.form.precision == "fp16" else kinds.FLOAT32,
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
            ),
            # Every search is exact. A graph takes long to build (docs/search.md).
            hnsw_config=models.HnswConfigDiff(m=0),
            shard_number=self.place.shards,
            replication_factor=self.place.replicas,
        )

    def entries(self) -> dict[int, str]:
        """As `StoredIndex`."""
        found: dict[int, str] = {}
        after = None
        while True:
            with answers(self.place.url):
                page, after = self._client.scroll(
                    self.place.collection, limit=_PAGE, offset=after, with_payload=True
                )
            found |= {point.id: point.payload[_DIGEST] for point in page}
            if after is None:
                return found

    def add(self, numbers: Sequence[int], digests: Sequence[str], features: Features) -> None:
        """As `StoredIndex`. An update that fails is tried again. UserError if a feature is NaN."""
        models = _models()
        tokens = self._images(features, len(numbers))
        if self.form.precision == "fp16":  # rounded here, so that every server has the same
            tokens = tokens.astype(np.float16)
        points = (
            models.PointStruct(id=number, vector=rows.tolist(), payload={_DIGEST: digest})
            for number, digest, rows in zip(numbers, digests, tokens, strict=True)
        )
        with answers(self.place.url):
            self._client.upload_points(
                self.place.collection, points, batch_size=_AT_ONCE, max_retries=_TRIES, wait=True
            )

    def remove(self, numbers: Sequence[int]) -> None:
        """As `StoredIndex`."""
        with answers(self.place.url):
            self._client.delete(self.place.collection, list(numbers), wait=True)

    def save(self) -> None:
        """The server tidies up by itself."""

    def _nearest(self, query: Floats, count: int, among: Indices | None) -> list[tuple[float, int]]:
        models = _models()
        chosen = None
        if among is not None:
            chosen = models.Filter(must=[models.HasIdCondition(has_id=among.tolist())])
        with answers(self.place.url):
            found = self._client.query_points(
                self.place.collection,
                query=query.tolist(),
                limit=count,
                query_filter=chosen,
                search_params=models.SearchParams(exact=True),
                with_payload=False,
            )
        return [(point.score, point.id) for point in found.points]

    def _vectors(self, numbers: Sequence[int]) -> dict[int, Any]:
        with answers(self.place.url):
            points = self._client.retrieve(
                self.place.collection, list(numbers), with_payload=False, with_vectors=True
            )
        return {point.id: point.vector for point in points}

    def refresh(self) -> None:
        """Every search sees what the server has."""

    def check(self) -> None:
        """The server checks its own files."""

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def info(self) -> dict[str, Any]:
        """As `StoredIndex`."""
        with answers(self.place.url):
            found = self._client.get_collection(self.place.collection)
        return {
            "server": self.place.url,
            "collection": self.place.collection,
            "segments": found.segments_count,
            "bytes": found.points_count * self._size,  # of the features alone
            "state": str(found.status.value),
        }


@contextmanager
def answers(url: str) -> Iterator[None]:
    """Say in one sentence that the server does not do what it is asked to."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of the client, of HTTP and of gRPC
        status = getattr(error, "status_code", None)
        status = status or getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise UserError(f"the server {url} wants a key; set {KEY} to it.") from None
        raise UserError(
            f"the server {url} does not answer as expected ({reason_of(error)}); start it or look "
            "at its log, and repeat the command, which goes on."
        ) from None


def connect(url: str, **settings: Any) -> Any:
    """A client of the server."""
    _models()
    from qdrant_client import QdrantClient

    given = {"api_key": _key(), "check_compatibility": False} | settings
    return QdrantClient(url=url, **given)


def key() -> dict[str, str]:
    """The header with the server's key, if there is one."""
    found = _key()
    return {} if found is None else {"api-key": found}


def _key() -> str | None:
    """The server's key. UserError if no header can hold it: libraries would show it then."""
    found = os.environ.get(KEY, "").strip()
    if not all("!" <= letter <= "~" for letter in found):
        raise UserError(f"{KEY} holds letters that no key has; set it again.")
    return found or None


def _models() -> Any:
    """The client's types. UserError if it is not installed."""
    try:
        from qdrant_client import models
    except ImportError:
        raise UserError(
            "an index on a server needs qdrant-client, which is not installed; run pip install "
            "'gatedcir[qdrant-server]', or make an index of the kind exact."
        ) from None
    return models
