"""Ranks against a slow obvious reference, and hand-counted recalls."""

import statistics

import numpy as np
import pytest

from gatedcir.benchmarks.cirr import cirr_metrics
from gatedcir.benchmarks.fashioniq import fashioniq_metrics
from gatedcir.benchmarks.ranks import (
    group_ranks,
    ranks_in_lists,
    recall_at,
    target_ranks,
)
from gatedcir.errors import UserError

CIRR_COLUMNS = [
    *("group_recall_at1", "group_recall_at2", "group_recall_at3"),
    *("recall_at1", "recall_at5", "recall_at10", "recall_at50"),
    *("mean(R@5+R_s@1)", "arithmetic_mean", "harmonic_mean", "geometric_mean"),
]


def slow_rank(similarity, target, excluded=None):
    """Sort the gallery by (similarity descending, index ascending), drop one, look it up."""
    order = sorted(range(len(similarity)), key=lambda image: (-similarity[image], image))
    return [image for image in order if image != excluded].index(target)


def test_ranks_equal_a_sort_on_data_full_of_ties():
    rng = np.random.default_rng(0)
    for gallery in (2, 3, 17, 60):
        similarity = rng.integers(-2, 3, (40, gallery)).astype(np.float32)
        target, excluded = np.array([rng.choice(gallery, 2, replace=False) for _ in range(40)]).T
        rows = list(zip(similarity.tolist(), target.tolist(), excluded.tolist(), strict=True))
        whole = target_ranks(similarity, target)
        assert whole.dtype == np.int64
        assert whole.tolist() == [slow_rank(row, wanted) for row, wanted, _ in rows]
        without = target_ranks(similarity, target, excluded=excluded)
        assert without.tolist() == [slow_rank(*row) for row in rows]


def test_ranks_do_not_depend_on_the_block_of_a_query(monkeypatch):
    rng = np.random.default_rng(1)
    similarity = rng.integers(0, 9, (23, 11)).astype(np.float32)
    target = rng.integers(0, 11, 23)
    expected = target_ranks(similarity, target)
    for entries in (1, 22, 55, 1000):
        monkeypatch.setattr("gatedcir.benchmarks.ranks._BLOCK_ENTRIES", entries)
        assert np.array_equal(target_ranks(similarity, target), expected)


def test_group_ranks_equal_a_sort_with_absent_members():
    rng = np.random.default_rng(2)
    similarity = rng.integers(0, 3, (50, 30)).astype(np.float32)
    members = np.array([rng.choice(30, 6, replace=False) for _ in range(50)])
    target, excluded = members[:, 0].copy(), members[:, 1].copy()
    own = np.take_along_axis(similarity, members, axis=1)
    expected = [
        slow_rank([row[image] if image in group else -9 for image in range(30)], wanted, removed)
        for row, group, wanted, removed in zip(similarity, members, target, excluded, strict=True)
    ]
    assert group_ranks(own, members, target, excluded=excluded).tolist() == expected
    members[:, 1], own[:, 1] = -1, np.nan  # removed by the caller instead
    assert group_ranks(own, members, target).tolist() == expected
    shuffled = rng.permutation(6)
    assert group_ranks(own[:, shuffled], members[:, shuffled], target).tolist() == expected


def test_ranks_in_lists_agree_with_ranks_in_the_gallery():
    rng = np.random.default_rng(3)
    similarity = rng.standard_normal((40, 30)).astype(np.float32)
    target, excluded = np.array([rng.choice(30, 2, replace=False) for _ in range(40)]).T
    lists = (-similarity).argsort(axis=1)[:, :11]
    for removed in (None, excluded):
        exact = target_ranks(similarity, target, excluded=removed)
        listed = ranks_in_lists(lists, target, excluded=removed)
        assert ((listed == exact) | ((listed == 11) & (exact >= 10))).all()
        assert (listed < 11).any() and (listed == 11).any()


def test_hand_counted_lists():
    retrieved = np.array([[5, 3, 8], [3, 5, 8], [5, 8, 3], [5, 8, -1], [-1, -1, -1]])
    target = np.array([3, 3, 3, 3, 3])
    excluded = np.array([5, 5, 5, 5, 5])
    assert ranks_in_lists(retrieved, target).tolist() == [1, 0, 2, 3, 3]
    assert ranks_in_lists(retrieved, target, excluded=excluded).tolist() == [0, 0, 1, 3, 3]


def test_recall_is_rounded_to_float32_before_it_becomes_a_percentage():
    ranks = np.array([0, 1, 2])
    assert recall_at(ranks, 1) == 33.33333432674408
    assert recall_at(ranks, 1) != 100 / 3
    assert recall_at(ranks, 2) == float(np.float32(2 / 3)) * 100
    assert recall_at(ranks, 3) == 100.0


def test_cirr_columns_and_means():
    ranks, in_group = np.array([0, 3, 7, 20]), np.array([1, 0, 2, 4])
    metrics = cirr_metrics(ranks, in_group)
    assert list(metrics) == CIRR_COLUMNS
    recalls = [25.0, 50.0, 75.0, 25.0, 50.0, 75.0, 100.0]
    assert list(metrics.values())[:8] == [*recalls, 37.5]
    assert metrics["arithmetic_mean"] == pytest.approx(400 / 7)
    assert metrics["harmonic_mean"] == pytest.approx(7 / sum(1 / recall for recall in recalls))
    assert metrics["geometric_mean"] == pytest.approx(statistics.geometric_mean(recalls))
    assert all(type(value) is float for value in metrics.values())


def test_a_zero_recall_makes_two_means_zero():
    metrics = cirr_metrics(np.array([3, 3]), np.array([0, 0]))
    assert metrics["recall_at1"] == metrics["harmonic_mean"] == metrics["geometric_mean"] == 0.0
    assert metrics["arithmetic_mean"] == pytest.approx(600 / 7)


def test_fashioniq_means_do_not_weight_the_categories():
    categories = {"dress": [0, 9, 10, 60], "shirt": [49], "toptee": [1, 2]}
    metrics = fashioniq_metrics({name: np.array(ranks) for name, ranks in categories.items()})
    assert metrics == {
        **{"dress_recall_at1": 25.0, "dress_recall_at5": 25.0},
        **{"dress_recall_at10": 50.0, "dress_recall_at50": 75.0},
        **{"shirt_recall_at1": 0.0, "shirt_recall_at5": 0.0},
        **{"shirt_recall_at10": 0.0, "shirt_recall_at50": 100.0},
        **{"toptee_recall_at1": 0.0, "toptee_recall_at5": 100.0},
        **{"toptee_recall_at10": 100.0, "toptee_recall_at50": 100.0},
        "average_recall_at1": pytest.approx(25 / 3),
        "average_recall_at5": pytest.approx(125 / 3),
        **{"average_recall_at10": 50.0, "average_recall_at50": pytest.approx(275 / 3)},
        "average_recall": pytest.approx((50 + 275 / 3) / 2),
    }
    assert list(metrics)[-3:] == ["average_recall_at10", "average_recall_at50", "average_recall"]


def test_nan_is_refused_instead_of_ranked_first():
    similarity = np.zeros((2, 3), dtype=np.float32)
    similarity[1, 2] = np.nan
    with pytest.raises(UserError, match="NaN"):
        target_ranks(similarity, np.array([0, 2]))
    with pytest.raises(UserError, match="NaN"):
        group_ranks(similarity, np.array([[0, 1, 2], [0, 1, 2]]), np.array([0, 2]))


@pytest.mark.parametrize(
    ("target", "excluded", "message"),
    [
        ([0, 1], [1, 1], "query 1 is also"),
        ([0, 3], None, "target holds"),
        ([0, -1], None, "target holds"),
        ([0, 1], [1, 3], "excluded holds"),
        ([0], None, "2 queries"),
        ([0, 1], [2], "2 queries"),
    ],
)
def test_wrong_indices_are_refused(target, excluded, message):
    excluded = None if excluded is None else np.array(excluded)
    with pytest.raises(ValueError, match=message):
        target_ranks(np.zeros((2, 3), dtype=np.float32), np.array(target), excluded=excluded)


def test_wrong_groups_and_empty_sets_are_refused():
    similarity = np.zeros((1, 3), dtype=np.float32)
    for members in ([[0, 1, 2]], [[5, 5, 1]]):
        with pytest.raises(ValueError, match="exactly once"):
            group_ranks(similarity, np.array(members), np.array([5]))
    with pytest.raises(ValueError, match="differ"):
        group_ranks(similarity, np.array([[0, 1]]), np.array([0]))
    with pytest.raises(ValueError, match="also its excluded"):
        group_ranks(similarity, np.array([[0, 1, 2]]), np.array([0]), excluded=np.array([0]))
    with pytest.raises(ValueError, match="also its excluded"):
        ranks_in_lists(np.array([[0, 1]]), np.array([0]), excluded=np.array([0]))
    with pytest.raises(ValueError, match="no queries"):
        recall_at(np.array([], dtype=np.int64), 1)
    with pytest.raises(ValueError, match="at least 1"):
        recall_at(np.array([0]), 0)
    with pytest.raises(ValueError, match="group ranks"):
        cirr_metrics(np.array([0, 1]), np.array([0]))
    with pytest.raises(ValueError, match="category"):
        fashioniq_metrics({})
