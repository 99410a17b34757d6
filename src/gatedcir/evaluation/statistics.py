"""Statistics over a few seeds: means with their intervals, and differences of paired runs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

LEVEL = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval at the level `LEVEL`. A single value has no interval."""

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Comparison:
    """The mean of paired differences, and the probability of one so large without any effect."""

    difference: Estimate
    p: float | None
    """Two-sided p-value of the paired t-test. None for fewer than two pairs, and for equal
    differences, because a spread of zero cannot be tested."""


def estimate(values: Sequence[float], *, resamples: int = RESAMPLES) -> Estimate:
    """Mean of one value or more and its percentile bootstrap interval over them.

    We use the percentile method. BCa (Efron and Tibshirani, 1993) needs the jackknife, which fails
    if all values are equal and is unstable with few seeds. The interval is too narrow for few
    values. With normal values, it holds the true mean in 76% of the cases for three values, 83% for
    five and 91% for ten. The draws are fixed, so that equal values have equal intervals. Their
    number, `resamples`, may be smaller where there are thousands of values.

    >>> estimate([31.0, 31.0, 31.0])
    Estimate(mean=31.0, low=31.0, high=31.0, count=3)
    >>> estimate([31.0])
    Estimate(mean=31.0, low=None, high=None, count=1)

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("an estimate needs a value")
    return _estimate(np.mean, values, resamples=resamples)


def estimate_share(
    parts: Sequence[float], wholes: Sequence[float], *, resamples: int = RESAMPLES
) -> Estimate:
    """The sum of parts by the sum of their wholes, and its interval as `estimate` has it.

    A part and its whole are drawn together.

    >>> estimate_share([1.0, 2.0], [4.0, 8.0])
    Estimate(mean=0.25, low=0.25, high=0.25, count=2)

    Raises:
        ValueError: not as many parts as wholes, or wholes that sum to 0.
    """
    if len(parts) != len(wholes) or not sum(wholes) > 0:
        raise ValueError("a share needs parts of a whole")
    return _estimate(_share, parts, wholes, resamples=resamples)


def _share(parts: np.ndarray, wholes: np.ndarray, axis: int = -1) -> np.ndarray:
    return parts.sum(axis) / wholes.sum(axis)


def _estimate(statistic: Callable[..., Any], *samples: Sequence[float], resamples: int) -> Estimate:
    arrays = [np.asarray(sample, dtype=float) for sample in samples]
    value, count = float(statistic(*arrays)), len(arrays[0])
    if count == 1:
        return Estimate(value, None, None, 1)
    found = scipy.stats.bootstrap(
        arrays,
        statistic,
        paired=len(arrays) > 1,
        confidence_level=LEVEL,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high), count)


def compare(values: Sequence[float], baseline: Sequence[float]) -> Comparison:
    """Values minus the baseline's, pair by pair. values[i] and baseline[i] share a seed.

    The test is the paired t-test (Student, 1908).

    >>> found = compare([3.0, 5.0, 7.0], [1.0, 2.0, 3.0])  # differences of 2, 3 and 4
    >>> found.difference.mean, round(found.p, 4)  # t = 3 / (1 / sqrt(3)), two degrees of freedom
    (3.0, 0.0351)

    Raises:
        ValueError: no pair, or not as many values as the baseline has.
    """
    differences = [one - other for one, other in zip(values, baseline, strict=True)]
    found = estimate(differences)
    if len(differences) < 2 or math.isclose(min(differences), max(differences), abs_tol=1e-9):
        return Comparison(found, None)
    return Comparison(found, float(scipy.stats.ttest_rel(values, baseline).pvalue))
