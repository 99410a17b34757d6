"""Compared cells -> charts. Every cell keeps its colour and marker in all of them.

A chart shows single seeds as dots or thin lines, next to every mean. Means of two cells stand next
to each other only over the seeds that both have.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gatedcir.visualize.style import COLOURS, GREY, LINES, MARKERS, SMALL, TEXT, WIDTH, plain

Ends = tuple[float, float]
_COLUMNS = 2  # of panels
_LETTERS = 66  # of a line over a chart
_NAME = 16  # letters of a line of a cell's name next to a chart
_SHIFT = 0.26  # rows from a mean down to its seeds
_READING = "large: mean, line: its 95% interval over seeds, grey: single seeds"


class Seconds(NamedTuple):
    """Time a step of one run: the mean over its epochs, and its fastest and slowest epoch."""

    mean: float
    least: float
    most: float


@dataclass(frozen=True)
class Cell:
    """One cell. Its runs are named by their seeds."""

    name: str
    values: Mapping[int, float]
    """The metric after the last epoch."""
    interval: Ends | None = None
    """Of the mean. None for a single seed."""
    differences: Mapping[int, float] = field(default_factory=dict)
    """Values minus the baseline's, of the seeds that both have."""
    difference_interval: Ends | None = None
    seconds: Mapping[int, Seconds] = field(default_factory=dict)
    curves: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    """The metric by epoch."""


class _Look(NamedTuple):
    color: str
    marker: str
    linestyle: str


def about(cells: Sequence[Cell], queries: int | None) -> str:
    """How many queries and seeds stand behind a chart, and what one query weighs.

    >>> about([Cell("a", {0: 1.0, 1: 2.0}), Cell("b", {0: 1.0})], 60)
    '60 queries (one is 1.67 points of a recall), 1 to 2 seeds a cell'
    """
    counts = sorted({len(cell.values) for cell in cells})
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    known = "an unknown number of queries"
    if queries is not None:
        known = f"{queries} queries (one is {100 / queries:.2f} points of a recall)"
    return f"{known}, {seeds} {'seed' if seeds == '1' else 'seeds'} a cell"


def headline_chart(
    cells: Sequence[Cell], *, baseline: str, label: str, queries: int | None
) -> Figure:
    """A row a cell, in the given order: its values, and its paired differences from the baseline.

    The grey band of the differences is what one query weighs.
    """
    names = [f"{textwrap.fill(cell.name, _NAME)}\n{_count(cell)}" for cell in cells]
    row_height = 0.2 + 0.12 * max(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=(WIDTH, 1.5 + row_height * len(cells)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    looks = _looks(cells, baseline)
    for row, cell in enumerate(cells):
        _dots(left, row, cell.values, cell.interval, looks[cell.name])
        _dots(right, row, cell.differences, cell.difference_interval, looks[cell.name])
        pairs = len(cell.differences)
        note = "baseline" if cell.name == baseline else f"{pairs} pair{'s' * (pairs != 1)}"
        right.annotate(
            note, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=SMALL
        )
    left.set_yticks(range(len(cells)), names, parse_math=False)
    left.set_ylim(len(cells) - 0.4, -0.6)
    one = 0.0 if queries is None else 100 / queries
    ends = [
        abs(x) for c in cells for x in (*c.differences.values(), *(c.difference_interval or ()))
    ]
    most = 1.15 * max([1.5 * one, *ends], default=0) or 1.0
    right.set_xlim(-most, most)
    # A point is as wide on the left as on the right, so that no small difference looks large there.
    ends = [x for cell in cells for x in (*cell.values.values(), *(cell.interval or ()))]
    middle, half = (min(ends) + max(ends)) / 2, 0.55 * (max(ends) - min(ends))
    left.set_xlim(middle - max(half, most), middle + max(half, most))
    right.axvline(0, color="black", linewidth=1, linestyle="--", zorder=0)
    if one:
        right.axvspan(-one, one, color=GREY, alpha=0.12, linewidth=0, zorder=0)
    for axes, title, axis in (
        (left, "after the last epoch", label),
        (
            right,
            f"minus {textwrap.fill(baseline, _NAME)},\npairs of one seed",
            f"difference of\n{label}",
        ),
    ):
        plain(axes, grid="x")
        axes.tick_params(labelsize=SMALL)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_title(title, fontsize=TEXT, loc="left", parse_math=False)
        axes.set_xlabel(axis, fontsize=SMALL, parse_math=False)
    band = "; band: one query" if one else ""
    _say(figure, about(cells, queries), f"{_READING}{band}")
    return figure


def curves_chart(
    cells: Sequence[Cell], *, baseline: str, label: str, queries: int | None
) -> Figure:
    """A panel a cell: each of its seeds by epoch, and those of the baseline behind them.

    Thick lines are means over the seeds that the cell and the baseline share.
    """
    rows = math.ceil(len(cells) / _COLUMNS)
    columns = min(_COLUMNS, len(cells))
    figure = Figure(figsize=(WIDTH, 1.9 * rows + 0.8), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    looks = _looks(cells, baseline)
    others = next((cell.curves for cell in cells if cell.name == baseline), {})
    for axes, cell in zip(panels.flat, cells, strict=False):
        shared = sorted(cell.curves.keys() & others.keys()) or sorted(cell.curves)
        drawn = [(cell.curves, looks[cell.name])]
        if cell.name != baseline:
            drawn.insert(0, (others, looks[baseline]))
        for curves, look in drawn:
            for curve in curves.values():
                axes.plot(*_points(curve), color=look.color, linewidth=0.7, alpha=0.45)
            if mean := _mean([curves[seed] for seed in shared if seed in curves]):
                axes.plot(*_points(mean), color=look.color, linewidth=2, marker=look.marker, ms=3.5)
        seeds = ", ".join(map(str, shared))
        seeds = f"seed {seeds}" if len(shared) == 1 else f"mean of seeds {seeds}"
        title = f"{textwrap.fill(cell.name, 2 * _NAME)}\n{seeds}"
        axes.set_title(title, fontsize=TEXT, parse_math=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        plain(axes, grid="y")
    for axes in panels.flat[len(cells) :]:
        axes.set_axis_off()
    figure.supxlabel("epoch", fontsize=TEXT)
    figure.supylabel(label, fontsize=TEXT)
    black = f", black: {baseline}" if len(cells) > 1 and others else ""
    _say(figure, about(cells, queries), f"validation; thin: single seeds{black}")
    return figure


def cost_chart(cells: Sequence[Cell], *, baseline: str, label: str, queries: int | None) -> Figure:
    """The metric against the time of a step, which begins at zero.

    A line across goes from the fastest to the slowest epoch of all runs of a cell.
    """
    heights = [2.9, 0.15 + 0.16 * len(cells)]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    axes = above.subplots()
    looks = _looks(cells, baseline)
    for cell in cells:
        look, times = looks[cell.name], list(cell.seconds.values())
        mean = float(np.mean([time.mean for time in times]))
        value = float(np.mean(list(cell.values.values())))
        ends = [min(time.least for time in times), max(time.most for time in times)]
        axes.plot(ends, [value] * 2, color=look.color, linewidth=1)
        if cell.interval is not None:
            axes.plot([mean] * 2, cell.interval, color=look.color, linewidth=1)
        dots = [(cell.seconds[seed].mean, one) for seed, one in cell.values.items()]
        axes.plot(*zip(*dots, strict=True), ".", color=look.color, alpha=0.5, ms=5)
        name = f"{cell.name}, {_count(cell)}"
        axes.plot(mean, value, look.marker, color=look.color, ms=8, linestyle="none", label=name)
    axes.set_xlim(0, 1.08 * max(t.most for cell in cells for t in cell.seconds.values()))
    axes.set_xlabel("seconds a training step, as measured next to other work", fontsize=TEXT)
    axes.set_ylabel(label, fontsize=TEXT)
    plain(axes, grid="both")
    meant = "large: means, dots: single seeds, up: 95% interval over seeds, across: fastest to "
    _say(figure, about(cells, queries), f"{meant}slowest epoch")
    handles = axes.get_legend_handles_labels()
    legend = below.legend(*handles, loc="center", fontsize=SMALL, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _say(figure: Figure, *lines: str) -> None:
    """Write what a chart shows above it."""
    broken = [part for line in lines for part in textwrap.wrap(line, _LETTERS)]
    figure.suptitle("\n".join(broken), fontsize=TEXT, parse_math=False)


def _dots(
    axes: Axes, row: int, values: Mapping[int, float], interval: Ends | None, look: _Look
) -> None:
    """A row: the mean with its interval, and the single seeds below it."""
    if not values:
        return
    found = list(values.values())
    axes.plot(found, [row + _SHIFT] * len(found), "o", color=GREY, ms=3.5, alpha=0.7)
    if interval is not None:
        axes.plot(interval, [row, row], color=look.color, linewidth=2)
    axes.plot(float(np.mean(found)), row, look.marker, color=look.color, ms=7)


def _count(cell: Cell) -> str:
    return f"{len(cell.values)} seed{'s' * (len(cell.values) != 1)}"


def _points(curve: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(curve), list(curve.values())


def _mean(curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The mean of curves, at the epochs that all of them have."""
    if not curves:
        return {}
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    return {epoch: float(np.mean([curve[epoch] for curve in curves])) for epoch in epochs}


def _looks(cells: Sequence[Cell], baseline: str) -> dict[str, _Look]:
    """A look for each name, in alphabetical order, so that it is the same in every chart."""
    looks = {baseline: _Look("black", "o", "-")}
    for place, name in enumerate(sorted({cell.name for cell in cells} - {baseline})):
        turn, colour = divmod(place, len(COLOURS))
        marker = MARKERS[(colour + turn) % len(MARKERS)]
        looks[name] = _Look(COLOURS[colour], marker, LINES[turn % len(LINES)])
    return looks
