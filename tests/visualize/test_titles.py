"""What is written in the figures: titles, and what the axes and colour bars say."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from gatedcir.visualize.charts import Bar, save_cost_chart, save_curves, save_interval_chart
from gatedcir.visualize.gate_figure import Picture, save_gate_figure
from gatedcir.visualize.panels import Bars, Maps, save_panels

IMAGE = np.zeros((4, 4, 3))
BARS = [Bar(name, 0.5, 0.4, 0.6, [0.4, 0.6], 1.0) for name in ("none", "gated")]


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
    save_gate_figure(
        tmp_path / "gate.png",
        reference=Picture(IMAGE, "reference"),
        gate=np.zeros((4, 4)),
        text="is red",
        others=[Picture(IMAGE, "rank 1", right=True)],
    )
    [figure] = saved
    assert figure.get_suptitle() == "is red"
    assert titles(figure) == ["reference", "Gate Activation Map", "rank 1", ""]  # the colour bar


def test_the_fusions_panels(saved, tmp_path):
    save_panels(
        tmp_path / "fusion.png",
        reference=Picture(IMAGE, "reference"),
        text="is red",
        bars=[Bars("weights", ["layer -1"], {"one": [1.0]})],
        maps=[Maps("gates", "how far", [[("layer -1", np.zeros((2, 2)))]])],
    )
    [figure] = saved
    assert figure.get_suptitle() == "is red"
    first, gates = figure.subfigs
    assert titles(first)[:2] == ["reference", "weights"]
    assert gates.get_suptitle() == "gates"
    assert titles(gates)[0] == "layer -1"
    assert "how far" in [axes.get_ylabel() for axes in gates.axes]


def test_the_charts(saved, tmp_path):
    save_interval_chart(tmp_path / "a.png", BARS, baseline="none", label="mean")
    save_curves(tmp_path / "b.png", {"none": {1: 0.5}}, baseline="none", label="R@1")
    save_cost_chart(tmp_path / "c.png", BARS, baseline="none", label="R@1")
    found = [(*titles(one), one.axes[0].get_xlabel(), one.axes[0].get_ylabel()) for one in saved]
    assert found == [
        ("mean, 95% interval, single seeds (grey); dashed: the baseline", "mean", ""),
        ("validation, mean over seeds", "epoch", "R@1"),
        ("mean and 95% interval, against time", "seconds a training step", "R@1"),
    ]
    assert [tick.get_text() for tick in saved[0].axes[0].get_yticklabels()] == ["none", "gated"]
