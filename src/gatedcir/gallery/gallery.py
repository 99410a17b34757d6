"""An index of photos that is open for searches.

Shapes: M queries, P parts of a query, Q query tokens, E embedding width.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from gatedcir.benchmarks.ranks import Indices
from gatedcir.errors import UserError
from gatedcir.gallery.indexing import Indexing, Report
from gatedcir.gallery.inputs import Query
from gatedcir.gallery.place import IndexFolder, read_manifest
from gatedcir.gallery.retriever import Retriever
from gatedcir.search.catalogue import Where
from gatedcir.search.index import Floats
from gatedcir.visualize.explained import Explanation


@dataclass(frozen=True)
class Hit:
    """A found image."""

    score: float
    """The similarity, from -1 to 1. Of an image that was reranked: the judge's score."""
    path: Path
    rank: int
    """1 for the best image."""
    metadata: dict[str, Any]
    duplicates: tuple[Path, ...] = ()
    """As in `Shown`."""
    _explain: Callable[[], Explanation] | None = field(default=None, repr=False, compare=False)

    def explain(self) -> Explanation:
        """The gate's map and the words of the query, and which feature of this image matched."""
        assert self._explain is not None
        return self._explain()


class Gallery:
    """Searches an index. Several threads may search at once.

    The gallery notices when another process has changed the index, and reads it again.
    """

    def __init__(self, folder: IndexFolder, retriever: Retriever) -> None:
        self.retriever = retriever
        self._folder, self._lock = folder, Lock()
        self._version = -1
        self._all: Indices
        self._among: Indices | None
        self._read()

    @classmethod
    def open(
        cls, path: str | Path, retriever: Retriever | None = None, *, device: str = "auto"
    ) -> "Gallery":
        """An index, for the model that made it.

        Args:
            path: the index.
            retriever: the model. Without it, the one that the index names is opened.
            device: where to open that one.

        Raises:
            UserError: there is no index, or it is damaged, or another model made it.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if retriever is None:
            retriever = Retriever.from_pretrained(manifest.model, device=device)
        manifest.check(path, retriever)
        return cls(IndexFolder.open(path, manifest), retriever)

    def __len__(self) -> int:
        """How many images can be found. Files with the same content count once."""
        return len(self._read())

    def _read(self) -> Indices:
        """The images that can be found, after a look whether the index has changed."""
        with self._lock:
            version = self._folder.catalogue.version()
            if version != self._version:
                self._folder.stored.refresh()
                self._all = self._folder.catalogue.searchable()
                others = self._folder.stored.entries().keys() - set(self._all.tolist())
                self._among = self._all if others else None
                self._version = version
            return self._all

    def search(
        self,
        image: Any = None,
        text: Any = None,
        *,
        k: int = 10,
        start: int = 0,
        where: Where | None = None,
        rerank: int = 50,
    ) -> Any:
        """The best images of a query: a list of `Hit`. Of several queries: a list of such lists.

        Args:
            image: the reference, or a list of them: paths, bytes, PIL images or arrays.
            text: how to change it, or a list of texts. A text is a str, or a list of pairs
                (str, weight). An image or a text alone is a query too.
            k: how many images.
            start: how many of the best images to leave out, for paging.
            where: conditions on the metadata. Field -> its value, a list of values, or a tuple
                (low, high) with both ends, of which one may be None.
            rerank: how many of the best images are read again and put into a better order, for an
                image with a text. Only a model that was trained with --stage rerank does this, or
                one that was opened with a `reranker`.

        Raises:
            UserError: neither image nor text, or one that cannot be read; k below 1; no image has
                a field of `where`.
        """
        if k < 1 or start < 0:
            raise UserError(
                f"k is {k} and start {start}; give a k of 1 or more and a start of 0 or more."
            )
        queries, one = self.retriever.queries(image, text)
        if not queries:
            return []
        features = self.retriever.encode_queries(queries)  # [M, P, E]
        found = self.ranked(queries, features, k=k, start=start, where=where, rerank=rerank)
        return found[0] if one else found

    def ranked(
        self,
        queries: Sequence[Query],
        features: Floats,
        *,
        k: int,
        start: int = 0,
        where: Where | None = None,
        rerank: int = 0,
    ) -> list[list[Hit]]:
        """The best images by the features [M, P, E] of M queries, as `search` gives them."""
        every = self._read()
        among = self._among if where is None else self._folder.catalogue.searchable(where)
        judges = rerank > start and self.retriever.judges
        most = len(every if among is None else among)
        wanted = min(max(start + k, rerank) if judges else start + k, most)
        if wanted <= start:
            return [[] for _ in queries]
        scores, numbers = self._folder.stored.search(features, wanted, among)
        if judges:
            for query, of_row, images in zip(queries, scores, numbers, strict=True):
                self._judge(query, of_row[:rerank], images[:rerank], where)
        found = []
        for row, query in enumerate(queries):
            hits = []
            places = zip(
                scores[row, : start + k].tolist(), numbers[row, : start + k].tolist(), strict=True
            )
            for rank, (score, number) in list(enumerate(places, 1))[start:]:
                shown = None if number < 0 else self._folder.catalogue.show(number, where)
                if shown is not None:  # None also if another process has just removed it

                    def explain(query: Query = query, number: int = number) -> Explanation:
                        [features] = self._folder.stored.features([number])
                        return self.retriever.explain_query(query, features)

                    hits.append(
                        Hit(score, shown.path, rank, shown.metadata, shown.duplicates, explain)
                    )
            found.append(hits)
        return found

    def _judge(self, query: Any, scores: Any, numbers: Any, where: Where | None) -> None:
        """Put images [N] into the order of the matcher or cross-encoder, in place.

        Images whose files are gone or cannot be read come last, with their similarity.
        """
        if query.image is None or query.text is None:
            return
        shown = [None if n < 0 else self._folder.catalogue.show(n, where) for n in numbers.tolist()]
        paths = [None if one is None else one.path for one in shown]
        found = self.retriever.judge(query, paths, scores)
        judged = np.isfinite(found)
        order = np.lexsort((numbers, np.where(judged, 0, -scores), -found))
        scores[:], numbers[:] = np.where(judged, found, scores)[order], numbers[order]

    def add(
        self, *places: str | Path, metadata: str | Path | None = None, skip_broken: bool = False
    ) -> Report:
        """Add files and folders to the index.

        Raises:
            UserError: a file is missing or cannot be read, or the index is in use.
        """
        file = None if metadata is None else Path(metadata)
        report = self._write(lambda index: index.add(list(map(Path, places)), metadata=file))
        report.check(skip_broken=skip_broken, way_out="pass skip_broken=True")
        return report

    def remove(self, *places: str | Path) -> Report:
        """Remove files and folders from the index. The files themselves stay.

        Raises:
            UserError: the index has no such file, or is in use.
        """
        return self._write(lambda index: index.remove(list(map(Path, places))))

    def compact(self) -> int:
        """Delete the features of removed files. Returns how many images they were of."""
        return self._write(lambda index: index.compact())

    def _write(self, change: Callable[[Indexing], Any]) -> Any:
        """Change the index, which only one can have open for it, and open it again."""
        with self._lock:
            path, manifest = self._folder.path, self._folder.manifest
            self._folder.close()
            try:
                with Indexing.at(path, self.retriever) as index:
                    return change(index)
            finally:
                self._folder = IndexFolder.open(path, manifest)
                self._version = -1

    def duplicates(self) -> list[list[Path]]:
        """Files with the same content."""
        return self._folder.catalogue.duplicates()

    def info(self, *, check: bool = False) -> dict[str, Any]:
        """What the index is and holds. With `check`, every feature is read and compared."""
        return info_of(self._folder, check=check)

    def close(self) -> None:
        """Give files and locks back."""
        self._folder.close()


def info_of(folder: IndexFolder, *, check: bool = False) -> dict[str, Any]:
    """What an index is and holds. No model is needed."""
    manifest, stored, catalogue = folder.manifest, folder.stored, folder.catalogue
    if check:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored.check()
    lost = set(catalogue.searchable().tolist()) - stored.entries().keys()
    return {
        "index": str(folder.path),
        "format": manifest.format,
        "kind": manifest.kind,
        "model": manifest.model,
        "weights": manifest.identity["weights"],
        "features of an image": f"{manifest.tokens} x {manifest.dim}, {manifest.precision}",
        **catalogue.counts(),
        "duplicates": [[str(path) for path in paths] for paths in catalogue.duplicates()],
        "fields": catalogue.fields(),
        **stored.info(),
        "damaged files": [
            *(str(path) for path in stored.damaged),
            *([str(catalogue.file)] if catalogue.damaged else []),
        ],
        "images without features": len(lost),
    }


def as_values(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """Hits as plain values for JSON."""
    return [
        {
            "path": str(hit.path),
            "score": round(hit.score, 6),
            "rank": hit.rank,
            "metadata": hit.metadata,
            "duplicates": [str(path) for path in hit.duplicates],
        }
        for hit in hits
    ]
