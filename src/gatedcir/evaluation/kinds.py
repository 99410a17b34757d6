"""Which kind of change a query asks for, and the recall of each kind."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gatedcir.data.changes import Changes
from gatedcir.data.triplets import Split
from gatedcir.evaluation.query_statistics import wilson
from gatedcir.evaluation.results import Results

# A text has every kind of which it has a word.
WORDS = {
    "colour": "red|green|blue|yellow|orange|purple|pink|brown|black|white|gr[ae]y|beige|golden|"
    "silver|colou?rs?|colou?red|colou?rful|darker|lighter|brighter|navy|teal|tan|maroon",
    "count": r"\d+|one|two|three|four|five|six|seven|eight|nine|ten|more|fewer|several|many|both|"
    "another|single|pair|only|count|number",
    "add": "add|adds|added|adding|put|insert|include|includes|also|plus",
    "remove": "remove|removes|removed|without|no|not|delete|drop|erase|take away|get rid|none",
    "replace": "replace|replaces|replaced|instead|swap|swapped|turn|become|becomes|change|changed",
    "position": "left|right|above|below|behind|front|next|top|bottom|middle|cent(?:er|re)|move|"
    "moved|between|closer|side|corner|facing|over|under",
    "attribute": "longer|shorter|larger|bigger|smaller|wider|thinner|looser|tighter|striped|"
    "stripes|dotted|dots|pattern|patterned|plain|sleeves?|sleeveless|shrink|grow|shape|size|"
    "style|floral|solid|less",
}
OTHER = "other"
_PATTERNS = {kind: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for kind, words in WORDS.items()}


def kinds_of_text(text: str) -> tuple[str, ...]:
    """Every kind of change that a text has a word of. `other` if it has none.

    >>> kinds_of_text("make it red and add two dots"), kinds_of_text("is prettier")
    (('colour', 'count', 'add', 'attribute'), ('other',))
    """
    found = tuple(kind for kind, pattern in _PATTERNS.items() if pattern.search(text))
    return found or (OTHER,)


def kinds_of(split: Split, known: Changes | None) -> tuple[str, list[tuple[str, ...]]]:
    """Where the kinds come from, and those of every query.

    They are what a synthetic data set drew, else what the annotations say (CIRCO's aspects), else
    read off the words.
    """
    if known is not None and any(t.query_id in known.queries for t in split.triplets):
        found = [
            tuple(dict.fromkeys(change.kind for change in known.queries.get(t.query_id, ())))
            for t in split.triplets
        ]
        return "what was drawn", [each or (OTHER,) for each in found]
    if any(triplet.aspects for triplet in split.triplets):
        return "the annotations", [triplet.aspects or (OTHER,) for triplet in split.triplets]
    return "the words", [kinds_of_text(" ".join(triplet.captions)) for triplet in split.triplets]


def recall_by_kind(
    parts: Sequence[Results], known: Mapping[str, Changes], *, k: int
) -> tuple[str, list[dict[str, Any]]]:
    """Where the kinds come from, and the recall of each kind, the most frequent kind first.

    A query counts in each of its kinds. Each row has `kind`, `count`, `recall` and `interval`.
    """
    ranks: dict[str, list[int]] = {}
    sources = []
    for part in parts:
        source, each = kinds_of(part.split, known.get(part.split.name))
        sources.append(source)
        for rank, kinds in zip(part.target_ranks.tolist(), each, strict=True):
            for kind in kinds:
                ranks.setdefault(kind, []).append(rank)
    rows = []
    for kind, found in sorted(ranks.items(), key=lambda one: -len(one[1])):
        hits = sum(rank < k for rank in found)
        rows.append(
            {
                "kind": kind,
                "count": len(found),
                "recall": 100 * hits / len(found),
                "interval": list(wilson(hits, len(found))),
            }
        )
    return " and ".join(dict.fromkeys(sources)), rows
