"""Intervals over queries and paired differences, against measuring every draw by hand."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from toy_rankings import features_of, random_split, ranked

from gatedcir.benchmarks.base import Benchmark
from gatedcir.benchmarks.cirr import CIRR
from gatedcir.benchmarks.fashioniq import FASHIONIQ
from gatedcir.data.changes import Change, Changes
from gatedcir.evaluation import query_statistics
from gatedcir.evaluation.kinds import kinds_of, recall_by_kind
from gatedcir.evaluation.query_statistics import (
    Measured,
    differences,
    intervals,
    measure_drawn,
    wilson,
)
from gatedcir.evaluation.results import Results
from gatedcir.evaluation.single_inputs import composition_gap

DRAWS = 60
COLOURS = ("Red", "reddish", "two of them")


def results(seed, split):
    return Results.of(ranked(split, *features_of(np.random.default_rng(seed), split)))


def answered(ranks, groups=None):
    split = random_split(np.random.default_rng(0), queries=len(ranks))
    none = [[] for _ in ranks]
    return [Results(split, np.array(ranks), np.array(groups or ranks), none, none)]


def cirr(seed, queries=30):
    rng = np.random.default_rng(seed)
    ranks = rng.choice([0, 1, 4, 9, 30, 70], queries).tolist()
    return answered(ranks, rng.integers(0, 5, queries).tolist())


def fashioniq(seed):
    rng = np.random.default_rng(7)
    sizes = (("dress", 9), ("shirt", 30))
    return [results(seed, random_split(rng, 70, n, cirr=False, category=c)) for c, n in sizes]


def drawn_slowly(benchmark, parts, draws):
    """Every metric in the same draws, each measured on its own."""
    model, rng, found = Measured(benchmark, parts), np.random.default_rng(0), []
    sizes = [len(part.split.triplets) for part in parts]
    blocks = [rng.multinomial(size, [1 / size] * size, size=draws) for size in sizes]
    for row in range(draws):
        found.append(measure_drawn(model, [block[row] for block in blocks]))
    return {name: np.array([one[name] for one in found]) for name in model.metrics}


@pytest.mark.parametrize(("benchmark", "parts"), [(CIRR, cirr), (FASHIONIQ, fashioniq)])
def test_means_over_queries_are_drawn_as_if_every_draw_was_measured(benchmark, parts):
    parts = parts(0)
    model = Measured(benchmark, parts)
    slow = drawn_slowly(benchmark, parts, DRAWS)
    found = intervals(model, draws=DRAWS)
    assert {name: one.value for name, one in found.items()} == benchmark.measure(parts)
    for name, one in found.items():
        if one.method == "bootstrap":
            assert (one.low, one.high) == pytest.approx(np.percentile(slow[name], [2.5, 97.5]))
    bootstrapped = [name for name, one in found.items() if one.method == "bootstrap"]
    if benchmark is CIRR:
        assert {"mean(R@5+R_s@1)", "harmonic_mean", "arithmetic_mean"} <= set(bootstrapped)
        assert "harmonic_mean" not in model.kinds and model.kinds["recall_at5"] == "query"
        hits = int((parts[0].target_ranks < 50).sum())
        assert (found["recall_at50"].low, found["recall_at50"].high) == wilson(hits, 30)
    else:  # the mean of two means over 9 and 30 queries
        assert model.kinds["average_recall_at50"] == "part"
        assert found["dress_recall_at50"].count == 9 and found["average_recall"].count == 39


def test_wilson_by_its_formula():
    hits, n, z = 7, 50, 1.959963984540054
    middle = (hits / n + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(hits / n * (1 - hits / n) / n + z**2 / (4 * n**2))
    assert wilson(hits, n) == pytest.approx((100 * (middle - half), 100 * (middle + half)))


def test_a_difference_is_paired_and_its_p_is_that_of_all_swaps():
    one, other = cirr(0, 8), cirr(1, 8)
    found = differences(Measured(CIRR, one), Measured(CIRR, other), draws=4000)
    mine, theirs = CIRR.measure(one), CIRR.measure(other)
    for name in ("mean(R@5+R_s@1)", "harmonic_mean"):
        gap = theirs[name] - mine[name]
        assert found[name].difference == pytest.approx(gap)
        extreme = 0
        for swap in product((False, True), repeat=8):
            swapped = CIRR.measure([other[0].swapped(one[0], swap)])[name]
            back = CIRR.measure([one[0].swapped(other[0], swap)])[name]
            extreme += abs(swapped - back) >= abs(gap) - 1e-9
        assert found[name].p == pytest.approx(extreme / 2**8, abs=0.07)
        low, high = np.percentile(
            drawn_slowly(CIRR, other, 200)[name] - drawn_slowly(CIRR, one, 200)[name], [2.5, 97.5]
        )
        assert (found[name].low, found[name].high) == pytest.approx((low, high), abs=8)
    ranks = [(a[0].target_ranks < 50) for a in (one, other)]
    wins = int((ranks[0] & ~ranks[1]).sum()), int((ranks[1] & ~ranks[0]).sum())
    assert found["recall_at50"].wins == wins and found["harmonic_mean"].wins is None


def test_a_model_does_not_differ_from_itself():
    for benchmark, parts in ((CIRR, cirr(0)), (FASHIONIQ, fashioniq(0))):
        model = Measured(benchmark, parts)
        for one in differences(model, model, draws=50).values():
            assert (one.difference, one.low, one.high, one.p) == (0, 0, 0, 1)
            assert one.wins in ((0, 0), None)
    with pytest.raises(ValueError, match="same queries"):
        differences(Measured(CIRR, cirr(0, 8)), Measured(CIRR, cirr(0, 9)))


def test_metrics_that_need_many_queries_are_measured_on_draws(monkeypatch):
    def spread(answers):
        ranks = answers[0].target_ranks
        if len(ranks) < 5:
            raise ValueError("too few")
        return {"recall_at10": 100 * float((ranks < 10).mean()), "spread": float(ranks.std())}

    monkeypatch.setattr(query_statistics, "_MEASURED_DRAWS", 20)
    own = Benchmark(name="own", read=lambda *_, **__: [], metrics=spread)
    found = intervals(Measured(own, cirr(0)), draws=50)
    assert {one.method for one in found.values()} == {"bootstrap"}
    assert found["spread"].low < found["spread"].value < found["spread"].high


def test_the_gap_is_what_the_model_adds_to_the_better_half():
    model, image, text = answered([0, 0, 20, 5]), answered([0, 30, 30, 30]), answered([9, 9, 9, 60])
    found = composition_gap(model, image, text)
    first, tenth = found["recall_at1"], found["recall_at10"]
    assert (first["model"], first["image-only"], first["text-only"]) == (50, 25, 0)
    assert (first["gap"], first["solved_alone"]) == (25, 25)
    assert first["remainder"] == pytest.approx(100 / 3) and first["remainder_count"] == 3
    assert (tenth["gap"], tenth["solved_alone"], tenth["remainder"]) == (0, 75, 100)
    nothing = composition_gap(model, answered([0] * 4), text)["recall_at1"]
    assert nothing["remainder"] is None and nothing["remainder_count"] == 0


def test_kinds_are_what_was_drawn_else_read_off_the_words():
    parts = answered([0, 20, 3])
    split = parts[0].split
    colours = tuple(
        replace(t, captions=(f"make it {c}",)) for t, c in zip(split.triplets, COLOURS, strict=True)
    )
    words = [("colour",), ("other",), ("count",)]
    assert kinds_of(replace(split, triplets=colours), None) == ("the words", words)
    drawn = {"0": (Change("recolour", ()),), "1": (Change("recolour", ()), Change("add", ()))}
    known = Changes((8, 8), {}, drawn)
    source, rows = recall_by_kind(parts, {split.name: known}, k=10)
    assert source == "what was drawn"
    assert [(row["kind"], row["count"], row["recall"]) for row in rows] == [
        ("recolour", 2, 50.0),
        ("add", 1, 0.0),
        ("other", 1, 100.0),
    ]
    assert rows[0]["interval"] == list(wilson(1, 2))
