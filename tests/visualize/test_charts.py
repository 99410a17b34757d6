"""What the charts of compared cells draw and say."""

import numpy as np
import pytest

from gatedcir.errors import UserError
from gatedcir.visualize import style
from gatedcir.visualize.charts import Cell, Seconds, cost_chart, curves_chart, headline_chart

NONE = Cell(
    "none",
    {0: 50.0, 1: 48.0, 2: 40.0},
    (40.0, 50.0),
    seconds={0: Seconds(0.5, 0.4, 0.7), 1: Seconds(1.0, 0.9, 1.2)} | {2: Seconds(0.9, 0.8, 1.0)},
    curves={0: {0: 30.0, 1: 50.0}, 1: {0: 28.0, 1: 48.0}, 2: {0: 10.0, 1: 40.0}},
)
ADDITIVE = Cell(
    "additive",
    {0: 49.0, 1: 48.5},
    (48.5, 49.0),
    differences={0: -1.0, 1: 0.5},
    difference_interval=(-1.0, 0.5),
    seconds={0: Seconds(0.5, 0.5, 0.5), 1: Seconds(0.5, 0.5, 0.5)},
    curves={0: {0: 29.0, 1: 49.0}, 1: {0: 27.0, 1: 48.5}},
)
ONE = Cell("one", {0: 47.0}, differences={0: -3.0}, seconds={0: Seconds(2.0, 1.0, 3.0)})
KNOWN = {"baseline": "none", "label": "R@1, %", "queries": 60}


def drawn(axes):
    """The points of every line, an axis line left out."""
    lines = [np.column_stack(line.get_data()).tolist() for line in axes.lines]
    return [line for line in lines if line != [[0, 0], [0, 1]]]


def test_differences_are_those_of_pairs_and_single_seeds_are_dots():
    figure = headline_chart([NONE, ADDITIVE, ONE], **KNOWN)
    left, right = figure.axes
    assert [[50.0, 0.26], [48.0, 0.26], [40.0, 0.26]] in drawn(left)
    assert [[48.5, 1], [49.0, 1]] in drawn(left) and [[46.0, 0]] in drawn(left)
    # Additive is worse by 0.25 where seeds are paired, and better than the mean of all others.
    assert drawn(right)[:3] == [
        [[-1.0, 1.26], [0.5, 1.26]],
        [[-1.0, 1], [0.5, 1]],
        [[-0.25, 1]],
    ]
    assert drawn(right)[3:] == [[[-3.0, 2.26]], [[-3.0, 2]]]  # no interval of one seed
    low, high = right.get_xlim()
    assert low == -high and high > 3
    [band] = right.patches
    assert (band.get_x(), band.get_width()) == pytest.approx((-100 / 60, 200 / 60))
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names == ["none\n3 seeds", "additive\n2 seeds", "one\n1 seed"]
    assert [text.get_text() for text in right.texts] == ["baseline", "2 pairs", "1 pair"]
    assert "60 queries (one is 1.67 points of a recall), 1 to 3 seeds" in figure.get_suptitle()


def test_curves_show_every_seed_and_average_only_shared_ones():
    figure = curves_chart([NONE, ADDITIVE], **KNOWN)
    none, additive = figure.axes
    assert len(none.lines) == 4 and none.get_title() == "none\nmean of seeds 0, 1, 2"
    # Three seeds of the baseline and two of its own, and two means over seeds 0 and 1.
    assert additive.get_title() == "additive\nmean of seeds 0, 1" and len(additive.lines) == 7
    assert [[0.0, 29.0], [1.0, 49.0]] in drawn(additive)
    assert [[0.0, 28.0], [1.0, 48.75]] in drawn(additive)
    assert "black: none" in figure.get_suptitle()


def test_time_begins_at_zero_and_shows_its_spread():
    figure = cost_chart([NONE, ONE], **KNOWN | {"queries": None})
    [axes] = figure.axes
    assert axes.get_xlim()[0] == 0 and axes.get_xlim()[1] > 3
    assert [[0.4, 46.0], [1.2, 46.0]] in drawn(axes) and [[1.0, 47.0], [3.0, 47.0]] in drawn(axes)
    assert [[0.5, 50.0], [1.0, 48.0], [0.9, 40.0]] in drawn(axes)
    assert "an unknown number of queries" in figure.get_suptitle()


def test_a_figure_has_the_format_of_its_ending(tmp_path):
    figure = cost_chart([ONE], **KNOWN)
    with pytest.raises(UserError, match=r"chart\.jpg is to be a picture; .* \.svg or \.pdf"):
        style.save(figure, tmp_path / "chart.jpg")
    style.save(figure, tmp_path / "chart.pdf")
    assert b"FontFile2" in (tmp_path / "chart.pdf").read_bytes()  # TrueType
    page = style.svg_of(figure)
    assert page.startswith("<svg") and page == style.svg_of(figure)
