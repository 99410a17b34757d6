"""Two models on the same queries -> a table, figures for a file, and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gatedcir.benchmarks.base import Benchmark
from gatedcir.evaluation.query_statistics import DRAWS, Difference, Measured, differences
from gatedcir.evaluation.ranking import KEPT, Ranking
from gatedcir.evaluation.report import table
from gatedcir.evaluation.results import Results
from gatedcir.report.blocks import Card, Cards, Section, Table, Text
from gatedcir.report.queries import card_of

READING = (
    "The difference is B minus A, with a 95% bootstrap interval over queries that draws the same "
    f"queries for both. p is of a permutation test with {DRAWS} swaps of A and B within queries, "
    "two-sided, for each metric alone. Both say what other queries would give. They do not say "
    "what another seed of training would give: compare several seeds for that (gatedcir ablate)."
)


@dataclass(frozen=True)
class Change:
    """A query whose rank differs. Ranks begin at 1. One past the kept images is that of a miss."""

    part: int
    query: int
    one: int
    other: int


@dataclass(frozen=True)
class Comparison:
    """Two models on the parts of a split."""

    names: tuple[str, str]
    rankings: tuple[list[Ranking], list[Ranking]]
    differences: dict[str, Difference]
    trained_on: tuple[str | None, str | None]
    """The data and the recipes of each. None without training."""
    changes: list[Change]
    """The queries with the largest changes of rank, the largest first."""

    @property
    def content(self) -> dict[str, Any]:
        """All figures, for a file."""
        splits = [ranking.split for ranking in self.rankings[0]]
        return {
            "a": self.names[0],
            "b": self.names[1],
            "trained_on": dict(zip("ab", self.trained_on, strict=True)),
            "protocol": {split.name: split.protocol for split in splits},
            "metrics": {
                name: {
                    "a": one.one,
                    "b": one.other,
                    "difference": one.difference,
                    "interval": [one.low, one.high],
                    "p": one.p,
                    "a_wins": None if one.wins is None else one.wins[0],
                    "b_wins": None if one.wins is None else one.wins[1],
                }
                for name, one in self.differences.items()
            },
            "changes": [
                {
                    "split": splits[change.part].name,
                    "query_id": splits[change.part].triplets[change.query].query_id,
                    "rank_a": _rank(change.one),
                    "rank_b": _rank(change.other),
                }
                for change in self.changes
            ],
        }


def compare(
    benchmark: Benchmark,
    names: tuple[str, str],
    rankings: tuple[list[Ranking], list[Ranking]],
    *,
    most: int,
    trained_on: tuple[str | None, str | None] = (None, None),
) -> Comparison:
    """Compare two models on the same queries, and find the `most` largest changes of rank.

    A change is as large as the logarithm of its ranks' ratio: from 1 to 2 weighs as from 10 to 20.
    """
    one, other = ([Results.of(part) for part in parts] for parts in rankings)
    found = differences(Measured(benchmark, one), Measured(benchmark, other))
    changes = []
    for part, (mine, theirs) in enumerate(zip(one, other, strict=True)):
        ranks = [np.minimum(each.target_ranks, KEPT) + 1 for each in (mine, theirs)]
        for query, (a, b) in enumerate(zip(*ranks, strict=True)):
            if a != b:
                changes.append(Change(part, query, int(a), int(b)))
    changes.sort(key=lambda change: -abs(np.log(change.one / change.other)))
    return Comparison(names, rankings, found, trained_on, changes[:most])


def format_comparison(found: Comparison) -> str:
    """The table of all metrics, and how to read it."""
    parts = [f"A: {found.names[0]}", f"B: {found.names[1]}"]
    parts += [f"{ranking.split.name}: {ranking.split.protocol}" for ranking in found.rankings[0]]
    return "\n".join([*parts, "", table(_HEADINGS, _rows(found.differences)), "", READING])


def comparison_sections(benchmark: Benchmark, found: Comparison) -> list[Section]:
    """The sections of a page."""
    about = [[f"{letter}", name] for letter, name in zip("AB", found.names, strict=True)]
    about += [
        [f"{letter} was trained on", text]
        for letter, text in zip("AB", found.trained_on, strict=True)
        if text is not None
    ]
    about += [[ranking.split.name, ranking.split.protocol] for ranking in found.rankings[0]]
    sections = [
        Section("What is compared", [Table(["", ""], about, words=True)]),
        Section("Differences", [Table(_HEADINGS, _rows(found.differences)), Text(READING)]),
    ]
    if found.changes:
        cards = [_card(benchmark, found, change) for change in found.changes]
        text = (
            "The queries whose rank changes most, by the ratio of their ranks. The first row of "
            "pictures is the query, the next two rows are the first results of A, then those of B."
        )
        sections.append(Section("Largest changes", [Text(text), Cards(cards)]))
    return sections


_HEADINGS = ["metric", "A", "B", "B - A", "95% interval", "p", "A wins", "B wins"]


def _rows(found: Mapping[str, Difference]) -> Sequence[list[str]]:
    return [
        [
            name,
            f"{one.one:.2f}",
            f"{one.other:.2f}",
            f"{one.difference:+.2f}",
            f"[{one.low:+.2f}, {one.high:+.2f}]",
            f"{one.p:.3f}",
            *(("", "") if one.wins is None else map(str, one.wins)),
        ]
        for name, one in found.items()
    ]


def _rank(rank: int) -> int | None:
    return rank if rank <= KEPT else None


def _said(rank: int) -> str:
    return str(rank) if rank <= KEPT else f"past {KEPT}"


def _card(benchmark: Benchmark, found: Comparison, change: Change) -> Card:
    mine, theirs = (
        card_of(benchmark, parts[change.part], change.query) for parts in found.rankings
    )
    query, results = mine.rows[0][:1], (mine.rows[1][:5], theirs.rows[1][:5])
    target = mine.rows[0][-1]
    shown = [*query, type(target)(target.source, "target", target.alt)]
    split = found.rankings[0][change.part].split
    note = f"query {split.triplets[change.query].query_id}: rank {_said(change.one)} by A, "
    return Card(mine.text, f"{note}{_said(change.other)} by B", [shown, *results])
