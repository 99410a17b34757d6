"""Rankings and their metrics against brute force."""

from dataclasses import replace

import numpy as np
import pytest
from toy_rankings import features_of, random_split, ranked, split_of

from gatedcir.benchmarks.cirr import CIRR
from gatedcir.benchmarks.fashioniq import FASHIONIQ
from gatedcir.data.triplets import Triplet
from gatedcir.errors import UserError


def slow(split, gallery, queries):
    """Each query's whole gallery and its group as sorted names, as the protocol has them."""
    for triplet, query in zip(split.triplets, queries, strict=True):
        scores = [max(float(token @ query) for token in image) for image in gallery]
        order = sorted(range(len(scores)), key=lambda image: (-scores[image], image))
        names = [split.gallery[image] for image in order]
        kept = [n for n in names if n != triplet.reference or not split.reference_removed]
        yield kept, [n for n in names if n in triplet.group and n != triplet.reference]


def share(split, lists, k):
    """Percentage of queries whose target is among the first k names."""
    hits = [t.target in names[:k] for t, names in zip(split.triplets, lists, strict=True)]
    return 100 * sum(hits) / len(hits)


@pytest.mark.parametrize("seed", range(4))
def test_cirr_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    split = random_split(rng)
    gallery, queries = features_of(rng, split)
    ranking = ranked(split, gallery, queries)
    wholes, groups = zip(*slow(split, gallery, queries), strict=True)
    for query in range(len(queries)):
        assert ranking.names(query) == wholes[query][:50]
        assert ranking.group_names(query) == groups[query]
    expected = {f"recall_at{k}": share(split, wholes, k) for k in (1, 5, 10, 50)}
    expected |= {f"group_recall_at{k}": share(split, groups, k) for k in (1, 2, 3)}
    assert len(set(expected.values())) > 4
    found = CIRR.measure([ranking])
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_fashioniq_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    rankings, expected = [], {}
    for category, size in (("dress", 70), ("shirt", 64), ("toptee", 52)):
        split = random_split(rng, size, size // 2, cirr=False, category=category)
        gallery, queries = features_of(rng, split)
        wholes, _ = zip(*slow(split, gallery, queries), strict=True)
        rankings.append(ranked(split, gallery, queries))
        for query in range(len(queries)):
            assert rankings[-1].names(query) == wholes[query][:50]
            assert rankings[-1].group_names(query) == []
        expected |= {f"{category}_recall_at{k}": share(split, wholes, k) for k in (1, 5, 10, 50)}
    for k in (1, 5, 10, 50):
        each = [expected[f"{category}_recall_at{k}"] for category in ("dress", "shirt", "toptee")]
        expected[f"average_recall_at{k}"] = sum(each) / 3
    both = expected["average_recall_at10"] + expected["average_recall_at50"]
    expected["average_recall"] = both / 2
    assert FASHIONIQ.measure(rankings) == pytest.approx(expected, rel=1e-6)


SQUARE = np.array([[[1, 0]], [[0, 1]], [[1, 1]], [[1, 1]]], dtype=np.float32)


def test_the_reference_leaves_where_the_protocol_says_so():
    group = ("d", "c", "b", "a")
    triplets = [Triplet("1", "c", ("d",), ("x",), group), Triplet("2", "a", ("c",), ("y",), group)]
    queries = np.array([[1, 0], [1, 2]], dtype=np.float32)
    removed = ranked(split_of(triplets, "abcd", removed=True), SQUARE, queries)
    assert [removed.names(query) for query in (0, 1)] == [["a", "d", "b"], ["c", "d", "b"]]
    assert [removed.group_names(query) for query in (0, 1)] == [["a", "d", "b"], ["c", "d", "b"]]
    assert removed.target_ranks.tolist() == removed.group_ranks.tolist() == [1, 0]
    kept = ranked(split_of(triplets, "abcd", removed=False), SQUARE, queries)
    assert [kept.names(query) for query in (0, 1)] == [["a", "c", "d", "b"], ["c", "d", "b", "a"]]
    assert kept.target_ranks.tolist() == [2, 0]


def test_groups_may_differ_in_size():
    triplets = [
        Triplet("1", "a", ("b",), ("x",), ("a", "b")),
        Triplet("2", "a", ("d",), ("x",), ("d", "a", "c", "b")),
    ]
    split = split_of(triplets, "abcd", removed=True)
    ranking = ranked(split, SQUARE, np.array([[0, 1], [0, 1]], dtype=np.float32))
    assert [ranking.group_names(query) for query in (0, 1)] == [["b"], ["b", "c", "d"]]
    assert ranking.group_ranks.tolist() == [0, 2]


def test_a_reference_outside_of_the_gallery_is_a_query():
    triplets = [Triplet("dress-0", "elsewhere", ("c",), ("x", "y"))]
    split = split_of(triplets, "abcd", removed=False, name="FashionIQ dress val")
    split = replace(split, category="dress")
    ranking = ranked(split, SQUARE, np.array([[1, 1]], dtype=np.float32))
    assert ranking.references.tolist() == [-1]
    assert ranking.names(0) == ["c", "d", "a", "b"]
    assert FASHIONIQ.measure([ranking])["dress_recall_at10"] == 100


def test_a_split_without_targets_is_ranked():
    rng = np.random.default_rng(0)
    split = random_split(rng, targets=False)
    gallery, queries = features_of(rng, split)
    ranking = ranked(split, gallery, queries)
    assert (ranking.targets == -1).all()
    for query, (whole, group) in enumerate(slow(split, gallery, queries)):
        assert ranking.names(query) == whole[:50]
        assert ranking.group_names(query) == group
        assert len(group) == 5


@pytest.mark.parametrize(("names", "removed"), [("a", True), ("ab", True), ("a", False)])
def test_a_gallery_with_nothing_to_choose_is_refused(names, removed):
    split = split_of(
        [Triplet("1", "a", (names[-1],), ("x",), tuple(names))], names, removed=removed
    )
    with pytest.raises(UserError, match=rf"CIRR val has {len(names)} image"):
        ranked(split, SQUARE[: len(names)], np.ones((1, 2), np.float32))


def test_the_smallest_galleries_are_ranked():
    queries = np.ones((1, 2), np.float32)
    triplets = [Triplet("1", "a", ("b",), ("x",), ("a", "b"))]
    two = ranked(split_of(triplets, "ab", removed=False), SQUARE[:2], queries)
    assert two.names(0) == ["a", "b"]
    three = ranked(split_of(triplets, "abc", removed=True), SQUARE[:3], queries)
    assert three.names(0) == ["c", "b"]
