"""Sheets are files: legible, cell by cell, on one scale, and the right answer framed."""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from gatedcir.visualize import style
from gatedcir.visualize.gate_figure import Picture, Row, save_gate_figure

GREEN = (0x1A, 0x98, 0x50)
BLACK = np.zeros((8, 8, 3))
GATE = np.linspace(0, 1, 64).reshape(8, 8)
TITLES = ["target, found at 1", *(f"retrieved {n}" for n in range(1, 6))]


def draw(path, *rows, change_top=1.0):
    """The saved figure [H, W, 3]."""
    save_gate_figure(path, rows, change_top=change_top)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def row(gate=GATE, text="is red", right=(), **more):
    kinds = ["right" if one else "other" for one in right]
    others = [Picture(BLACK, title, kind) for title, kind in zip(TITLES, kinds, strict=False)]
    return Row(text, BLACK, gate, others=others, **more)


def has(figure, colour):
    """Where the figure has a colour of 8 bits a channel, or one next to it."""
    return (np.abs(figure.astype(int) - np.round(255 * np.array(colour[:3]))) <= 1).all(-1)


def test_a_sheet_grows_by_its_rows_and_not_by_its_pictures(tmp_path):
    one, two, pictures, six = (
        draw(tmp_path / f"{n}.png", *rows)
        for n, rows in enumerate(
            ([row()], [row()] * 2, [row(right=[True])], [row(right=[True] * 6)])
        )
    )
    assert two.shape[0] == pytest.approx(2 * one.shape[0], abs=2)
    assert {figure.shape[1] for figure in (one, two, pictures, six)} == {one.shape[1]}
    assert one.shape[0] < pictures.shape[0] == six.shape[0]
    assert one.shape[1] > 700


def test_only_the_right_answer_is_framed(tmp_path):
    plain = draw(tmp_path / "plain.png", row(right=[False] * 6))
    assert not (plain == GREEN).all(-1).any()
    for place in (0, 3):
        figure = draw(tmp_path / "framed.png", row(right=[n == place for n in range(6)]))
        columns = np.nonzero((figure == GREEN).all(-1))[1]
        sixth = figure.shape[1] / 6
        assert columns.size > 1000  # four bars, not only the title
        assert place * sixth - sixth / 8 < columns.min()
        assert columns.max() < (place + 1) * sixth + sixth / 8


def test_each_kind_of_answer_has_its_own_frame(tmp_path):
    kinds = ("right", "near", "reference", "other")
    colours = [style.RIGHT, style.NEAR, style.REFERENCE, style.WRONG]
    assert len(set(colours)) == 4
    for kind, colour in zip(kinds, colours, strict=True):
        figure = draw(tmp_path / "framed.png", replace(row(), others=[Picture(BLACK, "", kind)]))
        figure = figure[-figure.shape[0] // 3 :]  # without the letters of the maps
        found = [has(figure, mpl.colors.to_rgb(one)).sum() > 100 for one in colours]
        assert found == [one == colour for one in colours]


def test_a_cell_has_the_colour_of_its_own_value_on_a_fixed_scale(tmp_path):
    gate = np.full((2, 2), 0.25)
    gate[1, 1] = 0.5  # far from the ends: a scale of the map's own would draw it as its end
    figure = draw(tmp_path / "gate.png", row(gate, change=gate / 10), change_top=0.1)
    for colours in ("viridis", "magma"):
        few, many = (has(figure, mpl.colormaps[colours](value)) for value in (0.5, 0.25))
        rows, columns = np.nonzero(few)
        # Three of four cells, to which a colour bar adds little.
        assert many.sum() == pytest.approx(3 * few.sum(), rel=0.05)
        across, down = np.percentile(columns, [2, 98]), np.percentile(rows, [2, 98])
        inside = few[int(down[0]) : int(down[1]), int(across[0]) : int(across[1])]
        assert inside.mean() > 0.95  # a flat square: nothing is smoothed


def test_the_same_change_has_the_same_colour_in_every_row(tmp_path):
    weak, strong = np.full((8, 8), 0.01), np.full((8, 8), 0.04)
    rows = [row(change=weak), row(change=strong)]
    figure = draw(tmp_path / "sheet.png", *rows, change_top=0.05)
    half = len(figure) // 2
    for part, value, other in ((figure[:half], 0.2, 0.8), (figure[half:], 0.8, 0.2)):
        there, elsewhere = (
            has(part, mpl.colormaps["magma"](each)).sum() for each in (value, other)
        )
        assert there > 20 * elsewhere


def test_what_truly_changes_is_outlined_on_every_map(tmp_path):
    flat = np.zeros((2, 2))
    above, below = (
        has(draw(tmp_path / "truth.png", row(flat, change=flat, boxes=[box])), (1, 1, 1))
        for box in ((0.1, 0.1, 0.9, 0.4), (0.1, 0.6, 0.9, 0.9))
    )
    third = above.shape[1] // 3
    for start in (0, third, 2 * third):
        high, low = (
            np.nonzero((one & ~other)[:, start : start + third])[0]
            for one, other in ((above, below), (below, above))
        )
        assert high.size > 100 and low.size > 100
        assert np.ptp(high) < 0.4 * third and high.max() < low.min()


@pytest.mark.parametrize(("ending", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_ending_says_the_format(tmp_path, ending, start):
    path = tmp_path / "deep" / f"gate.{ending}"
    save_gate_figure(path, [row()], change_top=1.0)
    assert path.read_bytes().startswith(start)


def test_text_is_shown_as_it_is(tmp_path):
    text = r"from $5 \nosuch{ to $6"
    figure = draw(tmp_path / "sign.png", row(text=text, words=[("$5", 0.5), ("$6", 0.5)]))
    assert (figure[:40] != 255).any()


def test_long_texts_leave_room_for_the_pictures(tmp_path, recwarn):
    words = [("considerably", 1 / 30)] * 30
    figure = draw(
        tmp_path / "long.png", row(text=" ".join(["striped"] * 500), words=words, right=[True] * 6)
    )
    assert not [w for w in recwarn if "layout" in str(w.message)]
    assert (figure == 0).all(-1).sum() > 200 * 200


def test_nothing_global_is_left_behind(tmp_path):
    settings, backend = dict(mpl.rcParams), mpl.get_backend()
    draw(tmp_path / "figure.png", row(right=[True]))
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == settings and mpl.get_backend() == backend
