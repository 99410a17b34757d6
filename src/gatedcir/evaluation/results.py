"""The results of single queries, of which some can be drawn, again and again.

Shapes: M queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gatedcir.benchmarks.ranks import Indices
from gatedcir.data.triplets import Split
from gatedcir.evaluation.ranking import Ranking

_NO_GROUP = -1


@dataclass(frozen=True)
class Results:
    """The results of a part of a split, read off a ranking once. They measure as it does."""

    split: Split
    target_ranks: Indices  # [M]
    groups: Indices  # [M], -1 for a query without a group
    lists: Sequence[list[str]]  # [M]
    group_lists: Sequence[list[str]]  # [M]

    @classmethod
    def of(cls, ranking: Ranking) -> "Results":
        """Those of a ranking."""
        queries = range(len(ranking.split.triplets))
        groups = np.full(len(queries), _NO_GROUP, dtype=np.int64)
        groups[ranking.has_group] = ranking.group_ranks
        return cls(
            ranking.split,
            ranking.target_ranks,
            groups,
            [ranking.names(query) for query in queries],
            [ranking.group_names(query) for query in queries],
        )

    @property
    def group_ranks(self) -> Indices:
        """0-based rank of the target in the image group, of every query that has a group."""
        return self.groups[self.groups != _NO_GROUP]

    def names(self, query: int) -> list[str]:
        """The retrieved images, best first."""
        return self.lists[query]

    def group_names(self, query: int) -> list[str]:
        """The images of the group, best first."""
        return self.group_lists[query]

    def only(self, queries: Indices) -> "Results":
        """Those of some queries, in their order. A query may be among them more than once."""
        return Results(
            replace(self.split, triplets=tuple(self.split.triplets[query] for query in queries)),
            self.target_ranks[queries],
            self.groups[queries],
            [self.lists[query] for query in queries],
            [self.group_lists[query] for query in queries],
        )

    def swapped(self, other: "Results", swap: Sequence[bool]) -> "Results":
        """Those of another model for the queries of the same split that are to be swapped."""

        def either(mine: Sequence[Any], theirs: Sequence[Any]) -> list[Any]:
            return [b if s else a for a, b, s in zip(mine, theirs, swap, strict=True)]

        return Results(
            self.split,
            np.where(swap, other.target_ranks, self.target_ranks),
            np.where(swap, other.groups, self.groups),
            either(self.lists, other.lists),
            either(self.group_lists, other.group_lists),
        )


def check_same_queries(one: Sequence[Results], other: Sequence[Results]) -> None:
    """ValueError if two models did not answer the same queries."""
    ids = [[[t.query_id for t in each.split.triplets] for each in parts] for parts in (one, other)]
    if ids[0] != ids[1]:
        raise ValueError("only results of the same queries can be compared")


def ranks_of(parts: Sequence[Results]) -> Mapping[str, Indices]:
    """All queries of all parts one after the other: their ranks, and those in their groups."""
    return {
        "rank": np.concatenate([each.target_ranks for each in parts]),
        "group": np.concatenate([each.groups for each in parts]),
    }
