"""The grid over queries: a tile each, on one scale, as wide as the columns of a paper."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from gatedcir.visualize.gate_figure import Direction, Row
from gatedcir.visualize.gate_sheet import COLUMN, save_gate_sheet

GATE = np.array([[0.0, 0.5], [0.75, 0.75]])
ROW = Row("is red", np.zeros((4, 4, 3)), GATE, GATE / 100, boxes=[(0.1, 0.1, 0.5, 0.5)])


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    def draw(*rows, change_top=0.02):
        found = []
        monkeypatch.setattr("gatedcir.visualize.style.save", lambda figure, _: found.append(figure))
        save_gate_sheet(tmp_path / "sheet.png", rows, change_top=change_top)
        [figure] = found
        figure.draw_without_rendering()  # now everything has its place
        return figure

    return draw


def tiles(figure):
    """The parts of the grid that hold a query."""
    return [part for part in figure.subfigs[0].subfigs if part.axes]


def test_each_query_has_its_own_maps_and_numbers_on_one_scale(drawn):
    rows = [ROW, replace(ROW, text="is $5", gate=GATE / 2, change=None)]
    with_change, without = drawn(ROW, replace(ROW, text="is $5", gate=GATE / 2)), drawn(rows[1])
    first, second = tiles(with_change)
    assert (first.get_suptitle(), second.get_suptitle()) == ("is red", "is $5")
    for tile, gate in ((first, GATE), (second, GATE / 2)):
        reference, gates, change = tile.axes
        assert [axis.get_title() for axis in tile.axes] == ["reference", "gate", "change"]
        np.testing.assert_array_equal(gates.images[0].get_array(), gate)
        np.testing.assert_array_equal(change.images[0].get_array(), GATE / 100)
        assert (gates.images[0].get_clim(), change.images[0].get_clim()) == ((0, 1), (0, 0.02))
        np.testing.assert_array_equal(reference.images[0].get_array(), ROW.reference)
    assert first.axes[1].get_xlabel() == "min 0.00\nmax 0.75\nmean 0.50\n50% over 0.5"
    bars = with_change.subfigs[1].axes
    ticks = [[tick.get_text() for tick in bar.get_xticklabels()] for bar in bars]
    assert ticks == [["0", "0.5", "1"], ["0", "0.01", "0.02"]]
    assert len(without.subfigs[1].axes) == 1 and len(tiles(without)[0].axes) == 2


@pytest.mark.parametrize(("queries", "columns", "down"), [(1, 1, 1), (4, 1, 4), (5, 2, 3)])
def test_a_sheet_is_as_wide_as_columns_of_a_paper(drawn, queries, columns, down):
    figure = drawn(*[ROW] * queries)
    assert figure.get_figwidth() == COLUMN * columns
    found = tiles(figure)
    assert len(found) == queries
    assert len({round(part.bbox.y0) for part in found}) == down


def test_letters_are_legible_and_nothing_overlaps_in_the_size_of_the_column(drawn):
    """Whatever is long or missing: each map keeps its size, and texts stand apart."""
    long = "make it two small dogs on wet grass, and " * 8
    other = replace(ROW, boxes=(), direction=Direction(GATE, "d", 1))
    figure = drawn(ROW, replace(ROW, text=long), other)
    sizes, letters = set(), []
    for part in tiles(figure):
        letters += part.texts
        for axis in part.axes:
            sizes.add(round(axis.get_window_extent().width))
            letters += [axis.title, axis.xaxis.label]
    for bar in figure.subfigs[1].axes:
        letters += [bar.title, *bar.get_xticklabels()]
    written = [text for text in letters if text.get_text()]
    assert min(text.get_fontsize() for text in written) >= 7
    boxes = [text.get_window_extent() for text in written]
    pairs = list(combinations(boxes, 2))
    assert len(boxes) > 20 and not any(one.overlaps(other) for one, other in pairs)
    assert all(figure.bbox.padded(1).fully_containsx(end) for box in boxes for end in box.intervalx)
    assert all(figure.bbox.padded(1).fully_containsy(end) for box in boxes for end in box.intervaly)
    assert len(sizes) == 1 and sizes.pop() > 0.25 * figure.bbox.width
    assert tiles(figure)[1].get_suptitle().endswith("…")
