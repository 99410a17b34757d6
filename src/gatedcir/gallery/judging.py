"""The best files of a search in the order of a judge: the model's matcher, or a cross-encoder.

Shapes: N files.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gatedcir.data.transforms import Transform
from gatedcir.errors import UserError
from gatedcir.evaluation.reranking import Asked, Candidate, Reranker
from gatedcir.gallery.inputs import Query
from gatedcir.search.index import Floats

_REFERENCE = "reference"


@dataclass(frozen=True)
class FileJudge:
    """Scores files for a query."""

    transform: Transform
    reranker: Callable[[Mapping[str, Any]], Reranker]
    """Images by their names -> who judges them."""
    reads_pixels: bool
    """Whether images come as pixels after the transform. Else they are pictures."""

    def scores(self, query: Query, paths: Sequence[Path | None], similarity: Floats) -> Floats:
        """Scores of files for an image with a text: [N]. Of several texts, the one with the
        greatest weight counts. -inf where there is no file, or it cannot be read.
        """
        known: dict[str, Any] = {}
        for number, path in enumerate(paths):
            if path is not None:
                with suppress(UserError):
                    known[str(number)] = self._image(self.transform.open(path))
        places, scores = list(map(int, known)), np.full(len(paths), -np.inf, np.float32)
        if not places:
            return scores
        assert query.image is not None and query.text is not None
        known[_REFERENCE] = self._image(query.image)
        words, _ = max(query.text, key=lambda part: part[1])
        candidates = [Candidate(str(number), float(similarity[number])) for number in places]
        scores[places] = self.reranker(known).rerank(Asked(_REFERENCE, words), candidates)
        return scores

    def _image(self, picture: Any) -> Any:
        return self.transform(picture) if self.reads_pixels else picture
