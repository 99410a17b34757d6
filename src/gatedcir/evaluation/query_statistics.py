"""Intervals of metrics over queries, and paired differences of two models.

A benchmark's metrics are any function of its answers. Most are means over queries. We find those by
measuring every query alone, and draw their bootstrap as one matrix product. The others, such as a
harmonic mean of recalls, are measured again for every draw.

Shapes: M queries, R draws.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from gatedcir.benchmarks.base import Benchmark
from gatedcir.evaluation.results import Results, check_same_queries
from gatedcir.evaluation.statistics import LEVEL

DRAWS = 2000
_MEASURED_DRAWS = 500  # of metrics that are no means over queries
_BLOCK = 250  # draws at once
_TRIES = 3  # draws on which a mean must be the metric
_EQUAL = 1e-4  # points. Recalls are rounded to float32 before they become percentages.
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Ends = tuple[float, float]


@dataclass(frozen=True)
class Interval:
    """A metric with its interval over queries."""

    value: float
    low: float
    high: float
    method: str
    """Wilson, or bootstrap."""
    count: int
    """The queries that the metric counts."""


@dataclass(frozen=True)
class Difference:
    """A metric of two models on the same queries."""

    one: float
    other: float
    low: float
    """Of the difference, other minus one."""
    high: float
    p: float
    """Two-sided, of a permutation test: the models of a query change places at random."""
    wins: tuple[int, int] | None
    """Queries that one and other win. None if the metric has no value for a single query."""

    @property
    def difference(self) -> float:
        """Other minus one."""
        return self.other - self.one


@dataclass(frozen=True)
class Measured:
    """A model's results on all parts of a split, and their metrics."""

    benchmark: Benchmark
    parts: Sequence[Results]

    @cached_property
    def metrics(self) -> dict[str, float]:
        """All metrics in percent."""
        return self.benchmark.measure(self.parts)

    @cached_property
    def single(self) -> list[dict[str, Floats]]:
        """By part: the value of each metric for each query alone. NaN if it does not count it."""
        found = []
        for part in self.parts:
            queries = range(len(part.split.triplets))
            each = [_metrics(self.benchmark, [part.only(np.array([query]))]) for query in queries]
            names = dict.fromkeys(name for one in each for name in one)
            found.append({n: np.array([one.get(n, np.nan) for one in each]) for n in names})
        return found

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Each metric: `query` for a mean over queries, `part` for a mean of the parts' means.

        A metric has a kind if its value on all queries is that mean, and also on a few draws.
        """
        sizes = [len(part.split.triplets) for part in self.parts]
        [block] = _draws(sizes, _TRIES, seed=1)
        tries = [[np.ones(size, dtype=np.int64) for size in sizes]]
        tries += [[one[row] for one in block] for row in range(_TRIES)]
        again = [self.metrics, *(measure_drawn(self, counts) for counts in tries[1:])]
        found: dict[str, str] = {}
        for name in self.metrics:
            if not any(name in part for part in self.single):
                continue
            for kind in ("query", "part"):
                means = [_weighted(self.single, [c[None] for c in t], name, kind) for t in tries]
                if all(
                    name in values and abs(float(mean[0]) - values[name]) < _EQUAL
                    for mean, values in zip(means, again, strict=True)
                ):
                    found.setdefault(name, kind)
        return found

    def values(self, name: str) -> Floats:
        """A metric's value for each query of all parts, in their order: [M]."""
        missing = [np.full(len(part.split.triplets), np.nan) for part in self.parts]
        found = [part.get(name, none) for part, none in zip(self.single, missing, strict=True)]
        return np.concatenate(found)


def intervals(measured: Measured, *, draws: int = DRAWS) -> dict[str, Interval]:
    """The interval of each metric over queries, at the level `LEVEL`.

    It is Wilson's (1927) for a share of queries, else a percentile bootstrap. The draws keep the
    number of queries of each part. They say what other queries of the same kind would give.
    """
    found = {}
    drawn = _drawn(measured, measured.kinds, draws)
    for name, value in measured.metrics.items():
        counted = _counted(measured, name)
        if measured.kinds.get(name) == "query" and set(counted) <= {0.0, 100.0}:
            low, high = wilson(int((counted == 100).sum()), len(counted))
            found[name] = Interval(value, low, high, "Wilson", len(counted))
        else:
            low, high = _ends(drawn[name])
            found[name] = Interval(value, low, high, "bootstrap", len(counted))
    return found


def differences(one: Measured, other: Measured, *, draws: int = DRAWS) -> dict[str, Difference]:
    """The paired difference of each metric that both have.

    The interval draws the same queries for both models. p comes from swapping the two models'
    results query by query (Fisher, 1935). Both say what other queries would give, not other seeds.

    Raises:
        ValueError: they did not answer the same queries.
    """
    check_same_queries(one.parts, other.parts)
    kinds = {name: kind for name, kind in one.kinds.items() if other.kinds.get(name) == kind}
    mine, theirs = _drawn(one, kinds, draws), _drawn(other, kinds, draws)
    swapped = _swapped(one, other, kinds, draws)
    found = {}
    for name, value in one.metrics.items():
        if name not in other.metrics:
            continue
        gap = other.metrics[name] - value
        low, high = _ends(theirs[name] - mine[name])
        extreme = int((np.abs(swapped[name]) >= abs(gap) - _EQUAL).sum())
        wins = None
        if name in kinds:
            change = other.values(name) - one.values(name)
            wins = int((change < 0).sum()), int((change > 0).sum())
        p = (1 + extreme) / (1 + len(swapped[name]))
        found[name] = Difference(value, other.metrics[name], low, high, p, wins)
    return found


def wilson(hits: int, count: int) -> Ends:
    """Wilson's interval of a share, in percent.

    >>> [round(end, 1) for end in wilson(3, 60)], [round(end, 1) for end in wilson(0, 60)]
    ([1.7, 13.7], [0.0, 6.0])
    """
    found = stats.binomtest(hits, count).proportion_ci(LEVEL, method="wilson")
    return 100 * float(found.low), 100 * float(found.high)


def _metrics(benchmark: Benchmark, parts: Sequence[Results]) -> dict[str, float]:
    """The metrics of a few queries. Those of one's own may need more, and are then unknown."""
    try:
        return benchmark.metrics(parts)
    except Exception:  # of anybody's function, on input that it may not expect
        return {}


def _counted(measured: Measured, name: str) -> Floats:
    values = measured.values(name)
    found = values[~np.isnan(values)]
    return found if len(found) else values


def _ends(drawn: Floats) -> Ends:
    rest = 50 * (1 - LEVEL)
    low, high = np.percentile(drawn, [rest, 100 - rest])
    return float(low), float(high)


def _draws(sizes: Sequence[int], draws: int, *, seed: int) -> Iterator[list[Counts]]:
    """Blocks of draws. By part: how often each of its queries is in each draw, [r, M]."""
    rng = np.random.default_rng(seed)
    for start in range(0, draws, _BLOCK):
        rows = min(_BLOCK, draws - start)
        yield [rng.multinomial(size, [1 / size] * size, size=rows) for size in sizes]


def measure_drawn(model: Measured, counts: Sequence[Counts]) -> dict[str, float]:
    """The metrics of drawn queries. By part: how often each query is drawn, [M]."""
    rows = [np.repeat(np.arange(len(one)), one) for one in counts]
    drawn = [part.only(some) for part, some in zip(model.parts, rows, strict=True)]
    return _metrics(model.benchmark, drawn)


def _drawn(model: Measured, kinds: Mapping[str, str], draws: int) -> dict[str, Floats]:
    """Each metric's values [R] in draws of queries, which are the same for all models.

    Metrics without a kind are measured again, and have fewer draws.
    """
    others = [name for name in model.metrics if name not in kinds]
    rounds = _draws([len(part.split.triplets) for part in model.parts], draws, seed=0)
    found: dict[str, list[Floats]] = {name: [] for name in kinds}
    again: dict[str, list[float]] = {name: [] for name in others}
    done = 0
    for counts in rounds:
        for name, kind in kinds.items():
            found[name].append(_weighted(model.single, counts, name, kind))
        for row in range(min(len(counts[0]), _MEASURED_DRAWS - done) if others else 0):
            measured = measure_drawn(model, [one[row] for one in counts])
            for name in others:
                again[name].append(measured.get(name, np.nan))
        done += len(counts[0])
    known = {name: np.concatenate(values) for name, values in found.items()}
    return known | {name: np.array(values) for name, values in again.items()}


def _weighted(
    single: Sequence[Mapping[str, Floats]],
    counts: Sequence[Counts],
    name: str,
    kind: str,
) -> Floats:
    """A metric in each draw [r]. A draw without any query that it counts has its mean."""
    sums, weights = [], []
    for part, weight in zip(single, counts, strict=True):
        if name in part:
            there = ~np.isnan(part[name])
            sums.append(weight @ np.where(there, part[name], 0))
            weights.append(weight @ there.astype(np.int64))
    if kind == "query":
        total, weight = np.sum(sums, axis=0), np.sum(weights, axis=0)
        return total / np.maximum(weight, 1)
    each = [total / np.maximum(weight, 1) for total, weight in zip(sums, weights, strict=True)]
    return np.mean(each, axis=0)


def _swapped(
    one: Measured, other: Measured, kinds: Mapping[str, str], draws: int
) -> dict[str, Floats]:
    """The differences of the metrics [R] when the models of some queries change places."""
    rng = np.random.default_rng(0)
    sizes = [len(part.split.triplets) for part in one.parts]
    shared = [name for name in one.metrics if name in other.metrics]
    found: dict[str, list[Any]] = {name: [] for name in shared}
    done = 0
    for start in range(0, draws, _BLOCK):
        rows = min(_BLOCK, draws - start)
        swaps = [rng.integers(2, size=(rows, size)) for size in sizes]
        for name, kind in kinds.items():
            found[name].extend(_swapped_means(one, other, swaps, name, kind))
        unknown = [name for name in shared if name not in kinds]
        for row in range(min(rows, _MEASURED_DRAWS - done) if unknown else 0):
            chosen = [each[row].astype(bool) for each in swaps]
            mine, theirs = (
                _metrics(one.benchmark, [a.swapped(b, s) for a, b, s in zip(*three, strict=True)])
                for three in ((one.parts, other.parts, chosen), (other.parts, one.parts, chosen))
            )
            for name in unknown:
                found[name].append(theirs.get(name, np.nan) - mine.get(name, np.nan))
        done += rows
    return {name: np.array(values) for name, values in found.items()}


def _swapped_means(
    one: Measured, other: Measured, swaps: Sequence[Any], name: str, kind: str
) -> Floats:
    """The difference of one metric in each of some swaps: [r]."""
    sums, counts = [], []
    for mine, theirs, swap in zip(one.single, other.single, swaps, strict=True):
        if name in mine and name in theirs:
            change = np.nan_to_num(theirs[name] - mine[name])
            sums.append((1 - 2 * swap) @ change)
            counts.append(int((~np.isnan(mine[name])).sum()))
    if kind == "query":
        return np.sum(sums, axis=0) / sum(counts)
    return np.mean([total / count for total, count in zip(sums, counts, strict=True)], axis=0)
