"""Where an intervention closes the gate, and what is lost by it, by hand."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from gatedcir.benchmarks.base import Benchmark
from gatedcir.data.triplets import Split, Triplet
from gatedcir.evaluation.interventions import CLOSED, recall_estimates
from gatedcir.evaluation.ranking import Ranking

# [CLS] has the greatest gate of all, and is no cell.
GATE = torch.tensor([[9.0, 0.1, 0.8, 0.3, 0.4, 0.5, 0.6, 0.7, 0.2]])


@pytest.mark.parametrize(
    ("where", "open_tokens"),
    [
        ("everywhere", []),
        ("where it opens most", [0, 1, 3, 4, 5, 6, 8]),
        ("where it opens least", [0, 2, 3, 4, 5, 6, 7]),
        ("but where it opens most", [2, 7]),
        ("but at [CLS]", [0]),
    ],
)
def test_the_gate_is_closed_where_the_name_says(where, open_tokens):
    keep = CLOSED[where](GATE)
    assert keep.dtype == torch.bool and keep.shape == GATE.shape
    assert keep[0].nonzero().flatten().tolist() == open_tokens
    assert len(CLOSED) == 5


@dataclass(frozen=True)
class Answers:
    """A ranking of which only the ranks are known."""

    split: Split
    target_ranks: np.ndarray

    def only(self, queries):
        triplets = tuple(self.split.triplets[query] for query in queries)
        return Answers(replace(self.split, triplets=triplets), self.target_ranks[queries])


def answers(ranks):
    triplets = tuple(Triplet(str(n), "a", ("b",), ("",)) for n in range(len(ranks)))
    split = Split("part", triplets, ("a", "b"), {}, "", reference_removed=False)
    return Answers(split, np.array(ranks))


def test_what_is_lost_is_drawn_in_pairs():
    """Two parts. The second query of the first part is lost when the gate is closed."""
    benchmark = Benchmark(name="mine", read=lambda *_, **__: [], headline="recall_at1")
    conditions = {
        "nowhere": [answers([0, 0]), answers([9, 9])],
        "everywhere": [answers([0, 9]), answers([9, 9])],
        "same": [answers([0, 0]), answers([9, 9])],
    }
    found = recall_estimates(benchmark, conditions)
    assert found["nowhere"]["value"] == 50 and found["everywhere"]["value"] == 25
    assert found["nowhere"]["count"] == 4
    # Each part keeps its size, so two of the four queries are found in every draw.
    assert found["nowhere"]["interval"] == [50, 50]
    assert found["everywhere"]["lost"] == 25
    # The lost query is drawn not at all, once or twice.
    assert found["everywhere"]["lost_interval"] == [0, 50]
    assert found["same"]["lost"] == 0 and found["same"]["lost_interval"] == [0, 0]


def test_a_ranking_of_some_queries_keeps_their_rows():
    split = answers([0, 1, 2]).split
    rows = np.arange(3)
    ranking = Ranking(split, rows, rows + 10, *(np.arange(9).reshape(3, 3) for _ in range(4)), rows)
    some = ranking.only(np.array([2, 0, 2]))
    assert [triplet.query_id for triplet in some.split.triplets] == ["2", "0", "2"]
    assert some.targets.tolist() == [12, 10, 12] and some.references.tolist() == [2, 0, 2]
    assert some.target_similarity.tolist() == [2, 0, 2]
    for each in (some.images, some.members, some.member_similarity, some.similarity):
        assert each.tolist() == [[6, 7, 8], [0, 1, 2], [6, 7, 8]]
