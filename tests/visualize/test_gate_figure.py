"""Figures are files: readable, wide enough, and the right answer framed."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from gatedcir.visualize.gate_figure import Picture, save_gate_figure

GREEN = (0x1A, 0x98, 0x50)
BLACK = np.zeros((8, 8, 3))
GATE = np.linspace(0, 1, 64).reshape(8, 8)


def draw(path, *right, gate=GATE, text="is red"):
    """The saved figure [H, W, 3] with a picture for each of `right`."""
    others = [Picture(BLACK, f"retrieved {i}", right=r) for i, r in enumerate(right, 1)]
    reference = Picture(BLACK, "reference")
    save_gate_figure(path, reference=reference, gate=gate, text=text, others=others)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def green(figure):
    """Columns of the pixels that have the colour of a right answer's frame."""
    return np.nonzero((figure == GREEN).all(-1))[1]


def test_the_figure_grows_with_its_pictures(tmp_path):
    figures = [draw(tmp_path / "deep" / f"{n}.png", *[False] * n) for n in (0, 1, 5)]
    heights, widths, _ = zip(*(figure.shape for figure in figures), strict=True)
    assert len(set(heights)) == 1
    assert widths[0] > 300
    # One picture more widens the figure by the same as each of four more.
    assert widths[2] - widths[1] == pytest.approx(4 * (widths[1] - widths[0]), abs=4)


def test_only_the_right_answer_is_framed(tmp_path):
    plain = draw(tmp_path / "plain.png", False, False)
    assert green(plain).size == 0
    for place in range(2):
        figure = draw(tmp_path / "framed.png", *(i == place for i in range(2)))
        columns = green(figure)
        width = figure.shape[1]
        assert columns.size > 1000  # four bars, not only the title
        # Two of the four pictures, the gate's with a colour bar, stand before the others.
        quarter = (place + 2) / 4 * width
        assert quarter - width / 20 < columns.min()
        assert columns.max() < quarter + width / 4 + width / 20
        assert columns.max() - columns.min() > width / 8


def test_the_gate_is_drawn_as_heat_over_the_reference(tmp_path):
    low, high = np.zeros((8, 8)), np.zeros((8, 8))
    high[:4] = 1
    flat = draw(tmp_path / "flat.png", gate=low).astype(int)
    half = draw(tmp_path / "half.png", gate=high).astype(int)
    # White heat at 0.65 over a black image, on the upper half of the gate's picture alone.
    bright = (np.abs(half - round(0.65 * 255)) <= 2).all(-1)
    assert bright.sum() > 20 * (np.abs(flat - round(0.65 * 255)) <= 2).all(-1).sum()
    rows, columns = np.nonzero(bright)
    width, height = (np.ptp(np.percentile(each, [5, 95])) for each in (columns, rows))
    assert width > 1.5 * height  # without the few grey dots of letters


def test_text_is_shown_as_it_is(tmp_path):
    figure = draw(tmp_path / "sign.png", text=r"from $5 \nosuch{ to $6")
    assert (figure[:40] != 255).any()


def test_a_text_of_a_hundred_words_leaves_room_for_the_pictures(tmp_path, recwarn):
    figure = draw(tmp_path / "long.png", text=" ".join(["striped"] * 100))
    assert not [w for w in recwarn if "layout" in str(w.message)]
    assert ((figure == 0).all(-1)).sum() > 50 * 50


def test_nothing_global_is_left_behind(tmp_path):
    settings, backend = dict(mpl.rcParams), mpl.get_backend()
    draw(tmp_path / "figure.png", True)
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == settings and mpl.get_backend() == backend
