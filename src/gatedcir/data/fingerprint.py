"""A data set's fingerprint: it tells whether two runs saw the same triplets and galleries.

It covers triplets and galleries only. It stays the same if a data set is moved or resized, because
it depends neither on the places of files nor on the content of images.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping

from gatedcir.data.triplets import Split

KEY = "fingerprints"  # of a run's provenance


def fingerprints(splits: Iterable[Split]) -> dict[str, str]:
    """A hash of each split's triplets and gallery, by the split's name."""
    return {split.name: _fingerprint(split) for split in splits}


def changed_split(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """The first split that both have but that differs between them.

    >>> changed_split({"train": "a", "val": "b"}, {"val": "c", "test": "d"})
    'val'
    """
    return next((name for name in before if now.get(name, before[name]) != before[name]), None)


def _fingerprint(split: Split) -> str:
    triplets = [
        (t.query_id, t.reference, t.targets, t.captions, t.group, t.pool) for t in split.triplets
    ]
    content = json.dumps([triplets, split.gallery])
    return hashlib.sha256(content.encode()).hexdigest()[:16]
