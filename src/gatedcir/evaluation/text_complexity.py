"""Queries by how much their text asks for: long or short, one change or several."""

import re
from collections.abc import Sequence

import numpy as np

from gatedcir.evaluation.ranking import Ranking

_JOINTS = re.compile(r"\s*(?:[,;.]|\band\b|\bthen\b)\s*")


def count_words(text: str) -> int:
    """The words between blanks.

    >>> count_words("make it red, please")
    4
    """
    return len(text.split())


def count_changes(text: str) -> int:
    """The parts of a text between commas, semicolons, full stops, "and" and "then".

    This is a rule for any data. It counts "swap the cup and the plate" as two.

    >>> [count_changes(text) for text in ("a red one", "is red, and also longer", "red and. Long")]
    [1, 2, 2]
    """
    return max(1, sum(bool(part) for part in _JOINTS.split(text)))


def by_text(
    rankings: Sequence[Ranking], texts: Sequence[Sequence[str]]
) -> dict[str, list[Ranking]]:
    """The rankings of some queries only, for each kind of text that there is.

    Args:
        rankings: of the parts of a split.
        texts: of the queries of each part.

    Returns:
        "all", then "at most W words" and "more than W words", where W is the median of all texts,
        then "one change" and "several changes".
    """
    words = [np.array([count_words(text) for text in part]) for part in texts]
    changes = [np.array([count_changes(text) for text in part]) for part in texts]
    median = int(np.median(np.concatenate(words)))
    kinds = {
        "all": [count > 0 for count in changes],
        f"at most {median} words": [count <= median for count in words],
        f"more than {median} words": [count > median for count in words],
        "one change": [count == 1 for count in changes],
        "several changes": [count > 1 for count in changes],
    }
    return {
        f"{kind} ({sum(int(part.sum()) for part in chosen)} queries)": [
            ranking.only(np.flatnonzero(part))
            for ranking, part in zip(rankings, chosen, strict=True)
            if part.any()
        ]
        for kind, chosen in kinds.items()
        if any(part.any() for part in chosen)
    }
