"""Measures of a map over cells, against values counted by hand and slow counts of pairs."""

import itertools

import numpy as np
import pytest

from gatedcir.data.changes import BACKGROUND, Change
from gatedcir.evaluation.localisation import (
    Truth,
    auc,
    cover,
    mass_inside,
    pointing,
    spread,
    swapped,
    truth_of,
)

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
TOP_LEFT, BOTTOM_RIGHT = (0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)


def flags(text):
    return np.array([letter == "1" for letter in text])


def test_cover_counts_an_overlap_once():
    np.testing.assert_allclose(cover([(0.25, 0.0, 0.75, 1.0)], 2), [0.5] * 4)
    np.testing.assert_allclose(cover([LEFT, TOP_LEFT], 2), [1, 0, 1, 0])
    assert not cover([], 3).any()


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_pairs_in_order(seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 6, 64).astype(float)  # with many ties
    kinds = rng.integers(0, 3, 64)
    truth = Truth(kinds == 0, kinds == 1, kinds < 3)
    pairs = list(itertools.product(values[kinds == 0], values[kinds == 1]))
    expected = np.mean([(one > other) + (one == other) / 2 for one, other in pairs])
    assert auc(values, truth) == pytest.approx(expected)


def test_auc_needs_both_kinds_of_cells():
    values = np.arange(3.0)
    assert auc(values, Truth(flags("000"), flags("111"), flags("111"))) is None
    assert auc(values, Truth(flags("110"), flags("000"), flags("111"))) is None
    assert pointing(values, Truth(flags("000"), flags("111"), flags("111"))) is None


def test_pointing_game_by_hand():
    truth = Truth(flags("1100"), flags("0010"), flags("1111"))
    assert pointing(np.array([0.0, 3.0, 1.0, 9.0]), truth) == 1  # the last cell does not count
    assert pointing(np.array([0.0, 1.0, 3.0, 9.0]), truth) == 0
    assert pointing(np.ones(4), truth) == pytest.approx(2 / 3)  # a constant map has the base rate


def test_truth_of_a_change_among_objects():
    """On a 4 x 4 grid: one object of four cells at the top left changes, another one does not."""
    change = Change("recolour", (TOP_LEFT,))
    truth = truth_of([change], [TOP_LEFT, BOTTOM_RIGHT], 4)
    assert truth.right.reshape(4, 4)[:2, :2].all() and truth.right.sum() == 4
    assert truth.wrong.sum() == 12
    assert truth.within.wrong.reshape(4, 4)[2:, 2:].all() and truth.within.wrong.sum() == 4
    added = truth_of([Change("add", ((0.5, 0.0, 1.0, 0.5),))], [TOP_LEFT], 4)
    assert added.right.sum() == 4 and not added.within.right.any()


def test_a_cell_that_is_hardly_touched_does_not_count():
    truth = truth_of([Change("recolour", ((0.0, 0.0, 0.3, 0.25),))], [], 4)
    assert truth.right.nonzero()[0].tolist() == [0]
    assert (~truth.right & ~truth.wrong).nonzero()[0].tolist() == [1]  # a fifth of it


def test_a_background_is_all_that_shows_no_object():
    background = Change(BACKGROUND, ((0.0, 0.0, 1.0, 1.0),))
    truth = truth_of([background], [TOP_LEFT], 4)
    assert truth.wrong.sum() == 4 and truth.right.sum() == 12
    both = truth_of([background, Change("remove", (TOP_LEFT,))], [TOP_LEFT, BOTTOM_RIGHT], 4)
    assert both.right.sum() == 12 and both.wrong.reshape(4, 4)[2:, 2:].all()


def test_the_cells_of_another_change_are_left_out():
    one, other = Change("recolour", (TOP_LEFT,)), Change("recolour", (BOTTOM_RIGHT,))
    truth = truth_of([one], [TOP_LEFT, BOTTOM_RIGHT], 4, others=[other])
    assert truth.right.sum() == 4 and truth.wrong.sum() == 8
    assert not truth.within.wrong.any()


def test_mass_inside_boxes():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert mass_inside(values, [LEFT]) == pytest.approx(0.4)
    assert mass_inside(values, [(0.0, 0.0, 0.25, 1.0)]) == pytest.approx(0.2)  # half of two cells
    assert mass_inside(values, [LEFT, RIGHT]) == pytest.approx(1)
    assert mass_inside(np.zeros(4), [LEFT]) is None


def test_the_spread_is_split_without_a_rest():
    maps = np.random.default_rng(0).normal(size=(3, 4, 5))
    parts = spread(maps)
    total = np.square(maps - maps.mean()).sum((1, 2))
    np.testing.assert_allclose(parts.total.sum(), total.sum())


def test_each_kind_of_spread_is_found_alone():
    rng = np.random.default_rng(0)
    image = np.broadcast_to(rng.normal(size=(3, 1, 5)), (3, 4, 5))
    level = np.broadcast_to(rng.normal(size=(3, 4, 1)), (3, 4, 5))
    place = rng.normal(size=(1, 4, 5))
    place = np.broadcast_to(place - place.mean(1, keepdims=True), (3, 4, 5))
    place = place - place.mean(2, keepdims=True)
    for number, maps in enumerate((image, level - level.mean(1, keepdims=True), place)):
        found = [part.sum() for part in spread(maps)]
        assert found[number] == pytest.approx(np.square(maps - maps.mean()).sum())
        assert sum(found) == pytest.approx(found[number])


def test_a_map_that_ignores_the_text_has_half_of_the_swaps():
    fixed = np.array([3.0, 1.0, 3.0, 1.0])
    assert swapped(fixed, fixed, ([LEFT], [RIGHT])) == (0.5, 0.5)
    assert swapped(fixed, fixed[::-1], ([LEFT], [RIGHT])) == (1, 1)
    assert swapped(fixed[::-1], fixed, ([LEFT], [RIGHT])) == (0, 0)
    assert swapped(np.ones(4), np.ones(4), ([LEFT], [RIGHT])) == (0.5, 0.5)
    assert swapped(fixed, fixed, ([LEFT], [LEFT])) is None
