"""Tables of epochs and steps -> charts of a training: losses, recalls, the gate."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gatedcir.visualize.style import COLOURS, LINES, MARKERS, SMALL, TITLE, plain

_PLACE = (
    0.19,
    0.21,
    0.78,
    0.67,
)  # left, bottom, width, height: a layout engine takes as long again
_FEW = 30  # points that are marked
_MOST_NAMED = 8  # runs of which a legend still leaves room
Curve = Mapping[float, float]
"""Epoch or step -> value."""


def curve_chart(
    name: str, curves: Mapping[str, Curve], *, runs: Sequence[str], along: str
) -> Figure:
    """One figure of a training, with a line for each run that has it.

    Args:
        name: what is drawn.
        curves: by run.
        runs: all runs of the page. Each keeps its colour in all charts.
        along: what the axis counts.
    """
    figure = Figure(figsize=(3.2, 2.2))
    axis = figure.add_axes(_PLACE)
    for run, curve in curves.items():
        turn, colour = divmod(runs.index(run), len(COLOURS))
        axis.plot(
            list(curve),
            list(curve.values()),
            color=COLOURS[colour],
            linestyle=LINES[turn % len(LINES)],
            marker=MARKERS[colour % len(MARKERS)] if len(curve) < _FEW else None,
            markersize=3,
            linewidth=1.2,
            label=run,
        )
    axis.set_title(name, fontsize=TITLE, parse_math=False)
    axis.set_xlabel(along, fontsize=SMALL)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    plain(axis, grid="y")
    axis.tick_params(labelsize=SMALL)
    if 1 < len(runs) <= _MOST_NAMED:
        for text in axis.legend(fontsize=SMALL - 1, framealpha=0.6).get_texts():
            text.set_parse_math(False)
    return figure
