"""Intervals and tests, against values worked by hand."""

import math

import numpy as np
import pytest

from gatedcir.evaluation.statistics import compare, estimate, estimate_share


def test_a_constant_is_its_own_interval():
    found = estimate([7.25] * 5)
    assert (found.mean, found.low, found.high, found.count) == (7.25, 7.25, 7.25, 5)


def test_one_value_has_no_interval_and_none_is_refused():
    assert estimate([3.0]).low is None and estimate([3.0]).high is None
    with pytest.raises(ValueError, match="needs a value"):
        estimate([])


def test_two_values_by_hand():
    # Means of two draws of {0, 1}: 0 and 1 with a chance of 1/4 each, far above 2.5%.
    assert (estimate([0.0, 1.0]).low, estimate([0.0, 1.0]).high) == (0.0, 1.0)


def test_many_values_have_the_interval_of_the_normal_law():
    values = np.random.default_rng(0).normal(10, 2, size=400)
    found = estimate(values.tolist())
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)


def test_a_share_draws_parts_with_their_wholes():
    # Both draws of a pair have a chance of 1/4, far above 2.5%: the shares 1/1 and 1/3.
    found = estimate_share([1.0, 1.0], [1.0, 3.0])
    assert (found.mean, found.count) == (0.5, 2)
    assert (found.low, found.high) == (pytest.approx(1 / 3), pytest.approx(1))
    with pytest.raises(ValueError, match="parts of a whole"):
        estimate_share([0.0], [0.0])


def test_coverage_is_what_is_said_of_it():
    rng = np.random.default_rng(0)
    for count, expected in ((3, 0.76), (5, 0.83), (10, 0.91)):
        found = [estimate(rng.normal(size=count).tolist()) for _ in range(300)]
        share = np.mean([one.low <= 0 <= one.high for one in found])
        assert share == pytest.approx(expected, abs=0.06)  # 2.5 standard errors of 300 trials


def test_the_paired_t_test_by_hand():
    # Differences 1, 1, 2, 4: mean 2, variance 2, so t = 2 / sqrt(2 / 4) = 2 sqrt(2), three degrees
    # of freedom, for which the tail is 1/2 - (atan(x) + x / (1 + x * x)) / pi with x = t / sqrt(3).
    found = compare([2.0, 3.0, 5.0, 8.0], [1.0, 2.0, 3.0, 4.0])
    x = 2 * math.sqrt(2) / math.sqrt(3)
    assert found.p == pytest.approx(2 * (0.5 - (math.atan(x) + x / (1 + x * x)) / math.pi))
    assert found.difference == estimate([1.0, 1.0, 2.0, 4.0])
    assert compare([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 5.0, 8.0]).p == pytest.approx(found.p)


def test_pairs_count_and_not_only_means():
    # A small and steady gain within a large spread of the seeds: only pairs can show it.
    baseline = [10.0, 20.0, 30.0, 40.0]
    steady = compare([11.0, 21.1, 30.9, 41.0], baseline)
    shuffled = compare([41.0, 11.0, 21.1, 30.9], baseline)
    assert steady.difference.mean == pytest.approx(shuffled.difference.mean)
    assert steady.p < 0.001
    assert shuffled.p > 0.5


@pytest.mark.parametrize("gain", [0.0, 0.1])
def test_without_spread_there_is_no_test(gain):
    baseline = [0.3, 0.7, 1.9]
    found = compare([value + gain for value in baseline], baseline)
    assert found.p is None
    assert found.difference.low == pytest.approx(gain)


def test_one_pair_is_no_test_and_uneven_ones_are_refused():
    found = compare([2.0], [1.5])
    assert (found.difference.mean, found.difference.low, found.p) == (0.5, None, None)
    with pytest.raises(ValueError, match="shorter"):
        compare([1.0, 2.0, 3.0], [1.0, 2.0])
