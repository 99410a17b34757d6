"""Bars and maps of one image -> one figure, a band for each of them."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure, SubFigure

from gatedcir.visualize import style
from gatedcir.visualize.cells import draw_map, draw_reference, draw_scale, numbers, scale

_CELL, _LINE, _BAR = 1.5, 0.16, 0.06  # inches of a map and of a letter's line, share of a bar
_FEWEST_COLUMNS = 4


@dataclass(frozen=True)
class Bars:
    """Weights as bars: a group for each label, and in it a bar for each series."""

    title: str
    labels: Sequence[str]
    series: dict[str, Sequence[float]]  # name -> a value for each label


@dataclass(frozen=True)
class Maps:
    """Rows of maps, each (title, [h, w]), which share one fixed scale of colours."""

    title: str
    unit: str
    """The meaning of the colours, written at the colour bar."""
    rows: Sequence[Sequence[tuple[str, npt.ArrayLike]]]
    ends: tuple[float, float] = (0.0, 1.0)
    """The colours go from one to the other. Shares begin at 0."""


def on_one_scale(pictures: Sequence[Sequence[Maps]]) -> list[list[Maps]]:
    """The maps of several pictures, those of one title on the scale that holds all of them.

    >>> low, high = (Maps("words", "share", [], ends=(0, top)) for top in (0.2, 0.6))
    >>> [maps.ends for [maps] in on_one_scale([[low], [high]])]
    [(0, 0.6), (0, 0.6)]
    """
    ends: dict[str, list[tuple[float, float]]] = {}
    for maps in (maps for picture in pictures for maps in picture):
        ends.setdefault(maps.title, []).append(maps.ends)
    held = {
        title: (min(low for low, _ in each), max(high for _, high in each))
        for title, each in ends.items()
    }
    return [[replace(maps, ends=held[maps.title]) for maps in picture] for picture in pictures]


def save_panels(
    path: Path, *, reference: npt.ArrayLike, text: str, bars: Sequence[Bars], maps: Sequence[Maps]
) -> None:
    """The image [H, W, 3] and the bars in the first band, then a band for each `Maps`."""
    columns = max(_FEWEST_COLUMNS, *(len(row) for band in maps for row in band.rows))
    heights = [_CELL + 2 * _LINE, *(len(m.rows) * (_CELL + 4 * _LINE) + 2 * _LINE for m in maps)]
    title = textwrap.fill(text, 20 * columns)
    size = (_CELL * columns + 1.1, sum(heights) + 0.25 * (title.count("\n") + 1))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    first, *rest = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    cells = np.shape(maps[0].rows[0][0][1])
    _draw_first(first, reference, cells, bars, columns)
    for band, part in zip(maps, rest, strict=True):
        _draw_maps(part, band, columns)
    style.save(figure, path)


def _draw_first(
    part: SubFigure,
    reference: npt.ArrayLike,
    cells: tuple[int, ...],
    bars: Sequence[Bars],
    columns: int,
) -> None:
    widths = [1.0, *[(columns - 1) / max(1, len(bars))] * max(1, len(bars))]
    axes = part.subplots(1, len(widths), width_ratios=widths)
    draw_reference(axes[0], reference, cells)
    for axis in axes[1 + len(bars) :]:
        axis.set_axis_off()
    for axis, group in zip(axes[1:], bars, strict=False):
        places = np.arange(len(group.labels))
        width = 0.8 / len(group.series)
        upright = 90 if len(group.series) > 1 else 0  # narrow bars
        for number, (name, values) in enumerate(group.series.items()):
            shift = (number - (len(group.series) - 1) / 2) * width
            colour = style.COLOURS[number % len(style.COLOURS)]
            drawn = axis.bar(places + shift, values, width * 0.95, label=name, color=colour)
            axis.bar_label(drawn, fmt="%.2f", fontsize=style.SMALL, rotation=upright, padding=1)
        axis.set_xticks(places, group.labels, fontsize=style.TEXT)
        axis.tick_params(axis="y", labelsize=style.SMALL)
        every = [value for values in group.series.values() for value in values]
        axis.set_ylim(1.35 * min(0, *every), 1.35 * max(1, *every))
        axis.set_title(group.title, fontsize=style.TITLE)
        if len(group.series) > 1:
            axis.legend(
                fontsize=style.SMALL, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False
            )


def _draw_maps(part: SubFigure, band: Maps, columns: int) -> None:
    part.suptitle(band.title, fontsize=style.TITLE, weight="bold", parse_math=False)
    widths = [*[1.0] * columns, _BAR]
    axes = part.subplots(len(band.rows), len(widths), width_ratios=widths, squeeze=False)
    is_share = band.ends[0] == 0
    heat = scale(style.GATE if is_share else style.DIRECTION, *band.ends)
    for axes_row, row in zip(axes, band.rows, strict=True):
        for axis, (title, values) in zip(axes_row, row, strict=False):
            below = numbers(values, share=is_share)
            draw_map(axis, values, heat, title=title, below=below, size=style.TEXT)
        for axis in axes_row[len(row) : -1]:
            axis.set_axis_off()
    first, *others = axes[:, -1]
    draw_scale(first, heat)
    first.set_box_aspect(1 / _BAR)
    first.set_ylabel(band.unit, fontsize=style.SMALL)
    for axis in others:
        axis.set_axis_off()
