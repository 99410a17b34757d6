"""Bars and maps of one image -> one figure, a band for each of them."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure

from gatedcir.visualize import style
from gatedcir.visualize.gate_figure import Picture, show

_CELL = 1.9  # inches of a map and its title
_LEAST_RANGE = 1e-3  # of a colour scale. With less, rounding errors would look like structure.
_FEWEST_COLUMNS = 4


@dataclass(frozen=True)
class Bars:
    """Weights as bars: a group for each label, and in it a bar for each series."""

    title: str
    labels: Sequence[str]
    series: dict[str, Sequence[float]]  # name -> a value for each label


@dataclass(frozen=True)
class Maps:
    """Rows of maps, each (title, [h, w]), which share one colour scale."""

    title: str
    unit: str
    """The meaning of the colours, written at the colour bar."""
    rows: Sequence[Sequence[tuple[str, npt.ArrayLike]]]
    over: npt.ArrayLike | None = None
    """An image [h, w, 3] of the maps' size to draw them over, as heat."""


def save_panels(
    path: Path, *, reference: Picture, text: str, bars: Sequence[Bars], maps: Sequence[Maps]
) -> None:
    """The image and the bars in the first band, then a band for each `Maps`."""
    columns = max(_FEWEST_COLUMNS, *(len(row) for band in maps for row in band.rows))
    heights = [1.2, *(len(band.rows) + 0.25 for band in maps)]
    title = textwrap.fill(text, 20 * columns)
    size = (_CELL * columns + 1.1, _CELL * sum(heights) + 0.25 * (title.count("\n") + 1))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    first, *rest = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_first(first, reference, bars, columns)
    for band, part in zip(maps, rest, strict=True):
        _draw_maps(part, band, columns)
    style.save(figure, path)


def _draw_first(part: SubFigure, reference: Picture, bars: Sequence[Bars], columns: int) -> None:
    widths = [1.0, *[(columns - 1) / max(1, len(bars))] * max(1, len(bars))]
    axes = part.subplots(1, len(widths), width_ratios=widths)
    show(axes[0], reference)
    for axis in axes[1 + len(bars) :]:
        axis.set_axis_off()
    for axis, group in zip(axes[1:], bars, strict=False):
        places = np.arange(len(group.labels))
        width = 0.8 / len(group.series)
        for number, (name, values) in enumerate(group.series.items()):
            shift = (number - (len(group.series) - 1) / 2) * width
            drawn = axis.bar(places + shift, values, width * 0.95, label=name)
            axis.bar_label(drawn, fmt="%.2f", fontsize=7)
        axis.set_xticks(places, group.labels, fontsize=8)
        axis.tick_params(axis="y", labelsize=7)
        axis.margins(y=0.15)
        axis.set_title(group.title, fontsize=9)
        if len(group.series) > 1:
            axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _draw_maps(part: SubFigure, band: Maps, columns: int) -> None:
    part.suptitle(band.title, fontsize=10)
    axes = part.subplots(len(band.rows), columns, squeeze=False)
    low, high = _range([values for row in band.rows for _, values in row])
    colours, alpha = ("viridis", 1.0) if band.over is None else ("inferno", 0.65)
    heat = ScalarMappable(Normalize(low, high), colours)
    for axes_row, row in zip(axes, band.rows, strict=True):
        for axis in axes_row:
            axis.set_axis_off()
        for axis, (title, values) in zip(axes_row, row, strict=False):
            if band.over is not None:
                axis.imshow(band.over, interpolation="nearest")
            axis.imshow(values, heat.cmap, heat.norm, interpolation="nearest", alpha=alpha)
            axis.set_title(title, fontsize=8, parse_math=False)
    used = max(len(row) for row in band.rows)
    bar = part.colorbar(heat, ax=axes[:, :used], shrink=0.8, alpha=alpha)
    bar.set_label(band.unit, fontsize=7)
    bar.ax.tick_params(labelsize=7)


def _range(maps: Sequence[npt.ArrayLike]) -> tuple[float, float]:
    """Least and greatest value, a little apart.

    >>> _range([[[0.25, 0.25]], [[0.5]]]), _range([[[0.5]]])
    ((0.25, 0.5), (0.4995, 0.5005))
    """
    low = min(float(np.min(values)) for values in maps)
    high = max(float(np.max(values)) for values in maps)
    missing = max(0.0, _LEAST_RANGE - (high - low)) / 2
    return low - missing, high + missing
