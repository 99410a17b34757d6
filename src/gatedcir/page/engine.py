"""One model with its index: a visitor's query -> results, and what the text does to the reference.

Shapes: P parts of a query, Q query tokens, E embedding width, T text tokens, L visual tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gatedcir.errors import UserError
from gatedcir.gallery.gallery import Gallery
from gatedcir.gallery.inputs import Query
from gatedcir.gallery.place import IndexFolder, read_manifest
from gatedcir.gallery.retriever import Retriever
from gatedcir.models.gated_fusion.gated import NoFusion
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.page.asked import Asked
from gatedcir.page.shelf import Kept, Shelf
from gatedcir.search.index import Floats
from gatedcir.visualize.explained import explained
from gatedcir.visualize.fusion_panels import weight_bars
from gatedcir.visualize.maps import patch_maps, to_picture
from gatedcir.visualize.panels import Bars
from gatedcir.visualize.words import word_shares

Map = npt.NDArray[np.float32]
_AT_ONCE = 2  # queries in a model; others wait without a picture in memory
_MARK = 0.5  # of a liked or disliked picture, where the query itself weighs 1
_VALUES = 1000  # of a field that are offered


@dataclass(frozen=True)
class Found:
    """A result."""

    picture: str
    """Its id."""
    name: str
    rank: int
    score: float
    token: int
    """Which of the picture's features matched best."""
    tokens: int
    """How many it has."""
    metadata: dict[str, Any]

    def values(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "score": round(self.score, 6)}


@dataclass(frozen=True)
class Look:
    """What a text does to a reference. What the model does not report is None or empty."""

    picture: Image.Image
    """The reference as the model sees it."""
    gate: Map | None = None
    """[h, w] in [0, 1]."""
    change: Map | None = None
    """[h, w], the size of alpha * gate * delta, with the visitor's alpha."""
    words: list[tuple[str, Map]] = field(default_factory=list)
    """Each word, and its share [h, w] of each cell's attention."""
    bars: list[Bars] = field(default_factory=list)
    """Weights of layers and scales."""
    alpha: float | None = None
    """The learned factor."""


class Engine:
    """A model and its index. Several threads may ask at once."""

    def __init__(
        self,
        index: Path,
        retriever: Retriever | None = None,
        *,
        uploads: Kept[bytes],
        device: str = "auto",
        rerank: int = 0,
        reranker: str | None = None,
    ) -> None:
        """Open an index.

        Args:
            index: its folder.
            retriever: the model. Without it, the one that the index names is opened.
            uploads: the visitors' pictures.
            device: where to open that one.
            rerank: how many of the best pictures are put into a better order.
            reranker: the cross-encoder of the model that is opened here.
        """
        manifest = read_manifest(index)
        if retriever is None:
            retriever = Retriever.from_pretrained(manifest.model, device=device, reranker=reranker)
        manifest.check(index, retriever)
        self._folder = IndexFolder.open(index, manifest)
        self.gallery = Gallery(self._folder, retriever)
        self.retriever, self.shelf = retriever, Shelf(self._folder.catalogue, uploads)
        self.name = Path(retriever.name).name
        self.rerank = rerank if retriever.judges else 0
        self._slots = BoundedSemaphore(_AT_ONCE)

    @property
    def has_fusion(self) -> bool:
        """Whether alpha has an effect."""
        return self.retriever.explains and not isinstance(self.retriever.model.fusion, NoFusion)

    @property
    def judge(self) -> str:
        """What reranks."""
        return self.retriever.reranker or "the model's matcher"

    def find(self, asked: Asked, *, shown: int | None = None) -> list[Found]:
        """The best pictures after `start`, as many as are asked for or `shown`.

        A marked picture moves every part of the query towards, or away from, the feature of that
        picture which is most like it. A picture with one text is reranked, if the visitor has left
        alpha at 1 and marked nothing, because a judge of pairs sees neither.

        Raises:
            UserError: there is nothing to search for; a picture is gone; a condition names a field
                that the index lacks.
        """
        if asked.is_empty:
            raise UserError("give a picture, a text, or both; then press Search.")
        where, count = asked.conditions(), shown or asked.k
        is_plain = len(asked.texts) == 1 and asked.alpha == 1 and not (asked.more or asked.less)
        with self._slots:
            query = self._query(asked)
            parts = self._parts(asked, query)
            [hits] = self.gallery.ranked(
                [query],
                parts[None],
                k=count,
                start=asked.start,
                where=where,
                rerank=self.rerank if is_plain else 0,
            )
        ids = [self.shelf.id_of(hit.path) for hit in hits]
        tokens = self._features(ids)
        return [
            Found(
                picture=picture,
                name=hit.path.name,
                rank=hit.rank,
                score=hit.score,
                token=int((features @ parts.T).mean(1).argmax()),
                tokens=len(features),
                metadata=hit.metadata,
            )
            for picture, hit, features in zip(ids, hits, tokens, strict=True)
        ]

    def _query(self, asked: Asked) -> Query:
        image = None if asked.reference is None else self.shelf.open(asked.reference)
        if image is None and not asked.texts:  # marks alone
            return Query(None, None)
        [query], _ = self.retriever.queries(image, list(asked.texts) or None)
        return Query(query.image, query.text, asked.alpha)

    def _parts(self, asked: Asked, query: Query) -> Floats:
        """[P, E], each of norm 1."""
        if query.image is None and query.text is None:
            parts = self._features(asked.more).mean(0)
        else:
            parts = self.retriever.encode_queries([query])[0]
        moved = parts.copy()
        for pictures, sign in ((asked.more, 1), (asked.less, -1)):
            for features in self._features(pictures):  # [Q, E]
                nearest = features[(parts @ features.T).argmax(1)]  # [P, E]
                moved += sign * _MARK / len(pictures) * nearest
        lengths = np.linalg.norm(moved, axis=1, keepdims=True)
        return moved / np.maximum(lengths, 1e-6)

    def _features(self, pictures: Sequence[str]) -> Floats:
        """[B, Q, E] of indexed pictures. UserError if one is not in the index."""
        numbers = [self.shelf.number_of(picture) for picture in pictures]
        if None in numbers:
            raise UserError("a marked picture is not in this index any more; take its mark back.")
        form = self._folder.manifest.form
        if not numbers:
            return np.empty((0, form.tokens, form.dim), np.float32)
        return self._folder.stored.features([number for number in numbers if number is not None])

    def look(self, asked: Asked) -> Look | None:
        """What the text does to the reference. None without a reference. Raises as `find`."""
        if asked.reference is None:
            return None
        with self._slots:
            query = self._query(asked)
            assert query.image is not None
            transform = self.retriever.transform
            pixels = to_picture(transform(query.image), mean=transform.mean, std=transform.std)
            seen = Image.fromarray((pixels.numpy() * 255 + 0.5).astype(np.uint8))
            if query.text is None or not self.retriever.explains:
                return Look(seen)
            aux, places = self.retriever.reported(query)
        maps = explained(aux, places)
        one = {name: value[0].float().cpu() for name, value in aux.items() if value.ndim > 1}
        words: list[tuple[str, Map]] = []
        if "text_attention" in one:
            names, shares = word_shares(one["text_attention"], places)
            words = list(zip(names, patch_maps(shares.T).numpy(), strict=True))
        model = self.retriever.model
        assert isinstance(model, ComposedRetriever)
        return Look(
            picture=seen,
            gate=maps.gate,
            change=None if maps.change is None else asked.alpha * maps.change,
            words=words,
            bars=weight_bars(one, layers=model.layers, scales=model.scales),
            alpha=float(aux["alpha"]) if "alpha" in aux else None,
        )

    def fields(self) -> dict[str, list[Any]]:
        """The fields of the metadata, each with its values, the frequent ones first."""
        catalogue = self._folder.catalogue
        return {field: catalogue.values(field, most=_VALUES) for field in catalogue.fields()}

    def close(self) -> None:
        """Give files and locks back."""
        self.gallery.close()
