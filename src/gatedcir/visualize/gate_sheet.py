"""The gates of several queries -> one picture for a column of a paper: a grid, a tile a query."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gatedcir.visualize import style
from gatedcir.visualize.cells import draw_map, draw_reference, draw_scale
from gatedcir.visualize.gate_figure import Panel, Row, panels_of

COLUMN = 3.3
"""Inches of one column of a paper of two. Letters have at least 7 points there."""
_IN_ONE = 4  # queries that stand below each other. More of them fill both columns.
_LINE, _LETTER = 0.13, 0.062  # inches of a small letter's line and width
_TITLE = 0.15  # inches of a line of the text
_LINES = 3  # of a text
_SCALES = 0.5  # inches of the colours with their numbers


def save_gate_sheet(path: Path, rows: Sequence[Row], *, change_top: float) -> None:
    """Draw a tile for each query: its text, and below it the reference, the gate and the change.

    All tiles share the colours at the end of the sheet: the gate's from 0 to 1, the change's from 0
    to `change_top`. Up to four queries are as wide as one column of a paper, more as wide as two.
    Directions, words and other pictures are left out.

    Args:
        path: its ending says the format: png, svg or pdf.
        rows: the queries. All have the same maps.
        change_top: the change at the upper end of the colours.
    """
    across = 1 if len(rows) <= _IN_ONE else 2
    tiles = [_maps(row, change_top) for row in rows]
    side = COLUMN / (1 + len(tiles[0]))
    titles = [_title(row.text) for row in rows]
    starts = range(0, len(rows), across)
    lines = [max(title.count("\n") + 1 for title in titles[n : n + across]) for n in starts]
    heights = [side + more * _TITLE + 6.3 * _LINE for more in lines]
    size = (COLUMN * across, sum(heights) + _SCALES)
    figure = Figure(figsize=size, layout="constrained")
    bands = [sum(heights), _SCALES]
    grid, scales = figure.subfigures(2, 1, height_ratios=bands, squeeze=False)[:, 0]
    parts = grid.subfigures(len(lines), across, height_ratios=heights, squeeze=False)
    for place, (part, row, panels) in enumerate(zip(parts.flat, rows, tiles, strict=False)):
        title = titles[place]
        padded = title + "\n" * (lines[place // across] - title.count("\n") - 1)
        part.suptitle(padded, fontsize=style.TEXT, weight="bold", parse_math=False)
        first, *others = part.subplots(1, 1 + len(panels))
        _draw(first, others, row, panels)
    bars = np.atleast_1d(scales.subplots(1, len(tiles[0])))
    for bar, panel in zip(bars, tiles[0], strict=True):
        draw_scale(bar, panel.heat, across=True)
        bar.set_box_aspect(0.08 / across)
        bar.set_title(panel.title.partition("\n")[0], fontsize=style.SMALL)
    style.save(figure, path)


def _maps(row: Row, change_top: float) -> list[Panel]:
    return panels_of(Row(row.text, row.reference, row.gate, row.change), change_top)


def _title(text: str) -> str:
    """A text in a few lines. What does not fit ends in three dots."""
    width = int(COLUMN / _LETTER * 0.9)
    return "\n".join(textwrap.wrap(text, width, max_lines=_LINES, placeholder=" …"))


def _draw(first: Axes, others: Sequence[Axes], row: Row, panels: Sequence[Panel]) -> None:
    draw_reference(first, row.reference, panels[0].values.shape, boxes=row.boxes, size=style.SMALL)
    for axis, panel in zip(others, panels, strict=True):
        draw_map(
            axis,
            panel.values,
            panel.heat,
            title=panel.title.split()[0],
            below=panel.below.replace(", ", "\n"),
            boxes=row.boxes,
            size=style.SMALL,
        )
