"""What later stages share: the right images of a triplet."""

from gatedcir.data.triplets import Triplet
from gatedcir.training.later_step import LaterTriplets

IMAGES = ["a", "b", "c", "d"]


def triplets_of(*targets):
    """Triplets with these right images, as a later stage sees them."""
    triplets = [Triplet(str(number), "a", each, ("is red",)) for number, each in enumerate(targets)]
    return LaterTriplets(triplets, {}, images=IMAGES, seed=0)


def test_one_right_image_is_one_column():
    found = triplets_of(("b",), ("c",))
    assert found.right([1, 0]).tolist() == [[2], [1]] and found.most_right == 1


def test_own_targets_come_first_and_fewer_are_filled_up():
    found = triplets_of(("b", "c", "d"), ("c",), ("d", "d", "b"))
    rows = found.right([0, 1, 2]).tolist()
    assert found.most_right == 3
    assert [set(row) for row in rows] == [{1, 2, 3}, {2}, {3, 1}]
    own = [IMAGES.index(found.target_of(index)) for index in range(3)]
    assert [row[0] for row in rows] == own
