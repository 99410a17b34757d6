"""What is written in the figures: titles, and what the axes and colour bars say."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from gatedcir.visualize.gate_figure import Direction, Picture, Row, save_gate_figure
from gatedcir.visualize.panels import Bars, Maps, save_panels

IMAGE = np.zeros((4, 4, 3))


@pytest.fixture
def saved(monkeypatch):
    """The figures that were saved."""
    figures = []

    def save(figure, path, **_):
        figures.append(figure)
        path.touch()

    monkeypatch.setattr(Figure, "savefig", save)
    return figures


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def test_the_gates_figure(saved, tmp_path):
    gate = np.array([[0.25, 0.5], [0.75, 1.0]])
    row = Row(
        text="is red",
        reference=IMAGE,
        gate=gate,
        change=gate / 50,
        direction=Direction(gate - 0.5, "delta", 1.0),
        words=[("is", 0.25), ("red", 0.75)],
        boxes=[(0.0, 0.0, 0.5, 1.0)],
        others=[Picture(IMAGE, "retrieved 1", kind="right")],
    )
    save_gate_figure(tmp_path / "gate.png", [row, replace(row, text="is blue")], change_top=0.05)
    [figure] = saved
    first, second = figure.subfigs
    assert (first.get_suptitle(), second.get_suptitle()) == ("is red", "is blue")
    maps, words, others = first.subfigs
    reference, gate_axis, gate_bar, change_axis, change_bar, delta_axis, delta_bar = maps.axes
    assert reference.get_xlabel() == "dashed: what\ntruly changes"
    assert gate_axis.get_title() == "gate\nmean over channels"
    assert gate_axis.get_xlabel() == "min 0.25, max 1.00\nmean 0.62, 50% over 0.5"
    assert change_axis.get_title() == "change |α·gate·δ|\nmean over channels"
    assert change_axis.get_xlabel() == "min 0.005, max 0.02\nmean 0.013"
    assert delta_axis.get_title() == "delta"
    for bar, ticks in (
        (gate_bar, ["0", "0.5", "1"]),
        (change_bar, ["0", "0.025", "0.05"]),
        (delta_bar, ["-1", "0", "1"]),
    ):
        assert [tick.get_text() for tick in bar.get_yticklabels()] == ticks
    [axis] = words.axes
    assert [bar.get_height() for bar in axis.patches] == [0.25, 0.75]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["is", "red"]
    assert [text.get_text() for text in axis.texts] == ["25%", "75%"]
    assert others.axes[0].get_title() == "retrieved 1"


def test_the_fusions_panels(saved, tmp_path):
    save_panels(
        tmp_path / "fusion.png",
        reference=IMAGE,
        text="is red",
        bars=[Bars("weights", ["layer -1"], {"one": [1.0]})],
        maps=[Maps("gates", "how far", [[("layer -1", np.zeros((2, 2)))]])],
    )
    [figure] = saved
    assert figure.get_suptitle() == "is red"
    [shelf] = figure.subfigs  # all three have room next to each other
    first, weights, gates, _ = shelf.subfigs
    assert titles(first)[0].strip() == "reference"
    assert [part.get_suptitle() for part in (weights, gates)] == ["weights", "gates"]
    assert [tick.get_text() for tick in weights.axes[0].get_xticklabels()] == ["-1"]
    assert weights.axes[0].get_xlabel().strip() == "layer"
    assert titles(gates)[0].strip() == "layer -1"
    assert "how far" in [axes.get_ylabel() for axes in gates.axes]


def test_long_texts_are_broken_between_words(saved, tmp_path):
    text = " ".join(["make it two small dogs on wet grass, and without the leash"] * 8)
    row = Row(text=text, reference=IMAGE, gate=np.zeros((2, 2)), change=np.zeros((2, 2)))
    save_gate_figure(tmp_path / "gate.png", [row], change_top=1.0)
    maps = [Maps("gates", "how far", [[("layer -1", np.zeros((2, 2)))]])]
    save_panels(tmp_path / "fusion.png", reference=IMAGE, text=text, bars=[], maps=maps)
    gates, panels = saved
    for title in (gates.subfigs[0].get_suptitle(), panels.get_suptitle()):
        lines = title.split("\n")
        assert " ".join(lines) == text and len(lines) > 1
        assert max(map(len, lines)) <= 120
