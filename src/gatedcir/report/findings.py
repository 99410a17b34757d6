"""What a report says of one model: figures, queries to show, the gate, and what is confused."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gatedcir.data.changes import Changes
from gatedcir.data.triplets import Split
from gatedcir.errors import UserError
from gatedcir.evaluation.evaluator import Evaluator
from gatedcir.evaluation.examined import Examined, examine
from gatedcir.evaluation.gate_maps import maps_of
from gatedcir.evaluation.gate_measures import in_training
from gatedcir.evaluation.kinds import recall_by_kind
from gatedcir.evaluation.ranking import Ranking
from gatedcir.report.blocks import Card
from gatedcir.report.queries import card_of, chosen, tile_of

KIND_CUTOFF = 10
_MOST_MAPS = 200  # queries whose gates are averaged
_CONFUSED = 6  # pairs


@dataclass(frozen=True)
class Findings:
    """One model on one split."""

    examined: Examined
    kinds: tuple[str, list[dict[str, Any]]]
    """See `recall_by_kind`."""
    seconds: float
    """Of the evaluation."""
    gate: npt.NDArray | None = None
    """The mean gate over queries and channels, [h, w]. None without a gate."""
    gate_queries: int = 0
    gate_figures: dict[str, float] = field(default_factory=dict)
    """Where it opens against what truly changes, if that is known."""
    sheets: dict[str, list[Card]] = field(default_factory=dict)
    """Kind of query -> cards."""
    confused: list[Card] = field(default_factory=list)


def find(
    evaluator: Evaluator, splits: Sequence[Split], known: Mapping[str, Changes], *, num: int
) -> Findings:
    """Evaluate a model, and collect what a page shows of it.

    Args:
        evaluator: the model.
        splits: the parts of a split, with targets.
        known: what truly changes, by split.
        num: queries of each kind, over all parts.
    """
    start = time.perf_counter()
    examined = examine(evaluator, splits, composition=True)
    seconds = time.perf_counter() - start
    shown = _shared_out(examined.rankings, num)
    gates, mean, count = _gates(evaluator, examined.rankings, shown)
    sheets: dict[str, list[Card]] = {}
    for kind, queries in shown.items():
        sheets[kind] = [
            card_of(
                evaluator.benchmark, ranking, query, gate=gates.get((ranking.split.name, query))
            )
            for ranking, query in queries
        ]
    return Findings(
        examined,
        recall_by_kind(examined.measured.parts, known, k=KIND_CUTOFF),
        seconds,
        gate=mean,
        gate_queries=count,
        gate_figures=in_training(evaluator, list(splits), known),
        sheets=sheets,
        confused=confused(examined.rankings),
    )


def _shared_out(rankings: Sequence[Ranking], num: int) -> dict[str, list[tuple[Ranking, int]]]:
    """The chosen queries of all parts, `num` of each kind, taken from the parts in turn."""
    found: dict[str, list[tuple[Ranking, int]]] = {}
    for ranking in rankings:
        for kind, queries in chosen(ranking, -(-num // len(rankings))).items():
            found.setdefault(kind, []).extend((ranking, query) for query in queries)
    return {kind: some[:num] for kind, some in found.items()}


def _gates(
    evaluator: Evaluator,
    rankings: Sequence[Ranking],
    shown: Mapping[str, Sequence[tuple[Ranking, int]]],
) -> tuple[dict[tuple[str, int], npt.NDArray], npt.NDArray | None, int]:
    """The gates of the shown queries, and the mean gate of queries spread over all of them."""
    if not evaluator.has_gate:
        return {}, None, 0
    asked = [(r, q) for some in shown.values() for r, q in some]
    everything = [(r, q) for r in rankings for q in range(len(r.split.triplets))]
    places = np.linspace(0, len(everything) - 1, min(_MOST_MAPS, len(everything))).astype(int)
    wanted = [*asked, *(everything[place] for place in places)]
    triplets = [ranking.split.triplets[query] for ranking, query in wanted]
    texts = [evaluator.benchmark.evaluation_text(triplet.captions) for triplet in triplets]
    with evaluator.measuring():
        try:
            gate = maps_of(evaluator, [triplet.reference for triplet in triplets], texts).gate
        except UserError:  # a fusion of one's own may not report its change
            return {}, None, 0
    side = round(gate.shape[1] ** 0.5)
    maps = gate.reshape(len(gate), side, side)
    own = {(r.split.name, q): one for (r, q), one in zip(asked, maps, strict=False)}
    return own, maps[len(asked) :].mean(0), len(places)


def confused(rankings: Sequence[Ranking]) -> list[Card]:
    """The targets with the images that most often take their first place."""
    pairs: Counter[tuple[int, str, str]] = Counter()
    texts: dict[tuple[int, str, str], str] = {}
    for part, ranking in enumerate(rankings):
        for query, triplet in enumerate(ranking.split.triplets):
            [first, *_] = ranking.names(query) or [triplet.reference]
            if triplet.target is not None and first not in (*triplet.targets, triplet.reference):
                pair = (part, triplet.target, first)
                pairs[pair] += 1
                texts.setdefault(pair, " ".join(triplet.captions))
    cards = []
    for (part, target, first), count in pairs.most_common(_CONFUSED):
        paths = rankings[part].split.paths
        tiles = [tile_of(paths, target, "target", "near"), tile_of(paths, first, "found first")]
        times = "once" if count == 1 else f"{count} times"
        cards.append(Card(texts[part, target, first], f"{times}: {first}, not {target}", [tiles]))
    return cards
