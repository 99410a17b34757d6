"""How well a map over an image's cells finds the places that a text changes. Arrays -> numbers.

Shapes: P = h * w cells, row by row, without [CLS]; R references, T texts.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy

from gatedcir.data.changes import BACKGROUND, Box, Change

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]

HELD = 0.25
"""The share of a cell that a box must cover to hold it. A cell that is touched by less does not
count, neither as right nor as wrong."""
_SAMPLES = 16  # points of a cell, in each direction, that decide how much of it is covered


class Truth(NamedTuple):
    """The cells [P] of one image that a map should find, and those that it should leave."""

    right: Flags
    wrong: Flags
    objects: Flags
    """The cells that hold an object, whether it changes or not."""

    @property
    def within(self) -> "Truth":
        """The same among the cells that hold an object. A new thing stands in none of them."""
        return Truth(self.right & self.objects, self.wrong & self.objects, self.objects)


def cover(boxes: Iterable[Box], side: int) -> Floats:
    """The share of each cell of a grid of `side` x `side` that boxes cover together: [P].

    >>> cover([(0, 0, 0.75, 0.5), (0, 0, 0.5, 0.5)], 2).tolist()
    [1.0, 0.5, 0.0, 0.0]
    """
    points = (np.arange(side * _SAMPLES) + 0.5) / (side * _SAMPLES)
    inside = np.zeros((len(points), len(points)), dtype=bool)
    for left, top, right, bottom in boxes:
        rows, columns = (points >= top) & (points < bottom), (points >= left) & (points < right)
        inside |= rows[:, None] & columns
    return inside.reshape(side, _SAMPLES, side, _SAMPLES).mean((1, 3)).ravel()


def truth_of(
    changes: Sequence[Change], objects: Sequence[Box], side: int, *, others: Sequence[Change] = ()
) -> Truth:
    """The cells that changes touch.

    Args:
        changes: what a map should find.
        objects: the boxes of all objects.
        side: of the grid.
        others: changes of the same text. Their cells count neither as right nor as wrong.
    """
    shown = cover(objects, side)
    right, near = _places(changes, shown, side)
    aside, aside_near = _places(others, shown, side)
    return Truth(right, ~(right | near | aside | aside_near), shown >= HELD)


def _places(changes: Sequence[Change], shown: Floats, side: int) -> tuple[Flags, Flags]:
    """The cells of changes, and those that they touch by less."""
    boxes = [box for change in changes if change.kind != BACKGROUND for box in change.boxes]
    covered = cover(boxes, side)
    right = covered >= HELD
    if any(change.kind == BACKGROUND for change in changes):
        right |= shown == 0
    return right, (covered > 0) & ~right


def auc(values: Floats, truth: Truth) -> float | None:
    """The area under the ROC curve of a map [P]: how often a right cell has more than a wrong one.

    Equal values count half (Mann and Whitney, 1947). None if there is no right cell, or no wrong.

    >>> truth = Truth(*np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]], dtype=bool))
    >>> auc(np.array([3.0, 1.0, 2.0, 2.0]), truth)  # of 4 pairs, 3 in order and 1 equal
    0.875
    """
    right, wrong = values[truth.right], values[truth.wrong]
    if not len(right) or not len(wrong):
        return None
    ranks = scipy.stats.rankdata(np.concatenate([right, wrong]))[: len(right)]
    least = len(right) * (len(right) + 1) / 2
    return float((ranks.sum() - least) / (len(right) * len(wrong)))


def pointing(values: Floats, truth: Truth) -> float | None:
    """Whether the greatest value is at a right cell, 1 or 0: the pointing game.

    Cells that do not count cannot win. Among equal values, it is the share of right ones.
    Source: Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016.

    >>> truth = Truth(*np.array([[1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]], dtype=bool))
    >>> pointing(np.array([2.0, 1.0, 2.0, 9.0]), truth)
    0.5
    """
    counted = truth.right | truth.wrong
    if not truth.right.any() or not truth.wrong.any():
        return None
    return float(truth.right[counted & (values == values[counted].max())].mean())


def mass_inside(values: Floats, boxes: Iterable[Box]) -> float | None:
    """The share of a map's sum that lies inside of boxes. None for a map of zeros.

    >>> mass_inside(np.array([3.0, 1.0, 0.0, 0.0]), [(0, 0, 0.5, 1)])
    0.75
    """
    total = float(values.sum())
    side = round(len(values) ** 0.5)
    return float((values * cover(boxes, side)).sum()) / total if total > 0 else None


class Spread(NamedTuple):
    """Three parts of the spread of maps, and their sum: squares for each reference [R]."""

    image: Floats
    """From image to image and place to place, whatever the text says."""
    level: Floats
    """From text to text, by as much at all places of an image."""
    place: Floats
    """From text to text, by other amounts at other places: what texts say about *where*."""

    @property
    def total(self) -> Floats:
        """All of it."""
        return self.image + self.level + self.place


def spread(maps: Floats) -> Spread:
    """Split the squared distances of maps [R, T, P] from their mean into three orthogonal parts.

    >>> maps = np.array([[[0.0, 2.0], [2.0, 0.0]]])  # two texts, each lights up another place
    >>> [part.tolist() for part in spread(maps)]
    [[0.0], [0.0], [4.0]]
    """
    maps = maps.astype(float)
    image = maps.mean(1, keepdims=True)
    by_text = maps - image
    level = by_text.mean(2, keepdims=True)
    parts = (image - maps.mean(), level, by_text - level)
    return Spread(*(np.square(np.broadcast_to(part, maps.shape)).sum((1, 2)) for part in parts))


class Swapped(NamedTuple):
    """How two maps of one image follow two texts, each of which changes another object."""

    above: float
    """The share of the two texts under which the object that it names lies above the other one, in
    the mean over its cells. A map that ignores the text has exactly 0.5."""
    turned: float
    """Whether the first text favours the first object more than the second text does, 1 or 0, by
    however little."""


def swapped(
    here: Floats, there: Floats, boxes: tuple[Sequence[Box], Sequence[Box]]
) -> Swapped | None:
    """Compare two maps [P]. None if one of the objects has no cell of its own.

    Args:
        here: the map under the text that changes the first object.
        there: the map under the text that changes the second one.
        boxes: those of the two objects.

    >>> left, right = [(0.0, 0.0, 0.5, 1.0)], [(0.5, 0.0, 1.0, 1.0)]
    >>> swapped(np.array([4.0, 1.0] * 2), np.array([3.0, 2.0] * 2), (left, right))
    Swapped(above=0.5, turned=1.0)
    """
    side = round(len(here) ** 0.5)
    one, other = (cover(each, side) >= HELD for each in boxes)
    one, other = one & ~other, other & ~one
    if not one.any() or not other.any():
        return None
    first, second = (float(m[one].mean() - m[other].mean()) for m in (here, there))
    # Equal means are no answer, and count half.
    above = (np.sign(first) - np.sign(second)) / 4 + 0.5
    return Swapped(float(above), float(np.sign(first - second) / 2 + 0.5))
