"""What a gate does to an image under one or several texts -> one sheet, a row for each text."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import PercentFormatter

from gatedcir.visualize import style
from gatedcir.visualize.cells import Box, draw_map, draw_reference, draw_scale, numbers, scale
from gatedcir.visualize.maps import rounded_up

Kind = Literal["right", "near", "reference", "other"]

_PANEL = 1.5  # inches of a panel at most
_BAR, _GAP = 0.07, 0.45  # inches of a colour bar, and of its numbers
_ACROSS = 3  # panels. More of them take two rows.
_LINE, _LETTER = 0.16, 0.07  # inches of a small letter's line and width
_WORDS, _OTHERS = 0.85, 1.1  # inches of the bands below the maps
_LONGEST = 13  # letters of a line over a picture below the maps
_FRAMES = {  # what a picture is -> the colour and the width of its frame, and its line
    "right": (style.RIGHT, 4.0, "-"),
    "near": (style.NEAR, 2.5, "--"),
    "reference": (style.REFERENCE, 2.5, ":"),
    "other": (style.WRONG, 1.0, "-"),
}


@dataclass(frozen=True)
class Picture:
    """An image [H, W, 3] in [0, 1] with a title."""

    image: npt.ArrayLike
    title: str
    kind: Kind = "other"
    """Its frame: the answer in the first place, the answer further down, the query's own image."""


@dataclass(frozen=True)
class Direction:
    """A map [h, w] of the change's direction, and what it says."""

    values: npt.ArrayLike
    title: str
    most: float
    """The colours go from minus this value to this value."""


@dataclass(frozen=True)
class Row:
    """One text over one image."""

    text: str
    reference: npt.ArrayLike
    """[H, W, 3] in [0, 1]."""
    gate: npt.ArrayLike
    """[h, w] in [0, 1], a value for each cell."""
    change: npt.ArrayLike | None = None
    """[h, w], 0 or more."""
    direction: Direction | None = None
    words: Sequence[tuple[str, float]] = ()
    """Each word's share of the attention."""
    boxes: Sequence[Box] = ()
    """Where the text truly changes the image, if that is known."""
    others: Sequence[Picture] = ()
    """Pictures below the maps, such as the retrieved ones."""


@dataclass(frozen=True)
class Panel:
    """A map with its colours."""

    values: npt.NDArray
    title: str
    below: str
    heat: ScalarMappable


def save_gate_figure(path: Path, rows: Sequence[Row], *, change_top: float) -> None:
    """Draw a row for each text: the reference, the gate and the change, cell by cell.

    The gate's colours always go from 0 to 1 and the change's from 0 to `change_top`, so pictures
    with the same `change_top` can be compared. Cells are drawn as they are, without smoothing.

    Args:
        path: its ending says the format: png, svg or pdf.
        rows: all have the same maps.
        change_top: the change at the upper end of the colours.
    """
    panels = [panels_of(row, change_top) for row in rows]
    titles = [textwrap.wrap(row.text, int(style.WIDTH / _LETTER * 0.85)) for row in rows]
    heights = [
        0.1 + 0.18 * len(lines) + sum(_bands(row, maps))
        for lines, row, maps in zip(titles, rows, panels, strict=True)
    ]
    figure = Figure(figsize=(style.WIDTH, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    top = rounded_up(max((share for row in rows for _, share in row.words), default=1))
    for part, row, maps, lines in zip(parts, rows, panels, titles, strict=True):
        part.suptitle("\n".join(lines), fontsize=10, weight="bold", parse_math=False)
        _draw_row(part, row, maps, top)
    style.save(figure, path)


def _bands(row: Row, panels: Sequence[Panel]) -> list[float]:
    """Inches of the height of maps, words and other pictures, those that there are."""
    down, across = _shape(panels)
    bars = across - (down == 1)  # in the fullest row: the reference has none
    side = min(_PANEL, (style.WIDTH - 0.2 - bars * (_BAR + _GAP)) / across)
    longest = max((len(word) for word, _ in row.words), default=0)
    upright = longest * _LETTER * _is_crowded(row.words)
    words = [_WORDS + upright] * bool(row.words)
    return [down * (side + 4.5 * _LINE), *words, *[_OTHERS] * bool(row.others)]


def _shape(panels: Sequence[Panel]) -> tuple[int, int]:
    """Rows and columns of the reference and the maps."""
    count = 1 + len(panels)
    down = -(-count // _ACROSS)
    return down, -(-count // down)


def _is_crowded(words: Sequence[tuple[str, float]]) -> bool:
    """Whether words stand too close next to each other, so that they are written upright."""
    longest = max((len(word) for word, _ in words), default=0)
    return len(words) * (longest + 1) * _LETTER > style.WIDTH - 0.5


def panels_of(row: Row, change_top: float) -> list[Panel]:
    """The maps that a row has, with their colours and numbers."""
    gate = np.asarray(row.gate)
    title = "gate\nmean over channels"
    found = [Panel(gate, title, numbers(gate, share=True), scale(style.GATE, 0, 1))]
    if row.change is not None:
        change, title = np.asarray(row.change), "change |α·gate·δ|\nmean over channels"
        heat = scale(style.CHANGE, 0, change_top)
        found.append(Panel(change, title, numbers(change, ".2g"), heat))
    if row.direction is not None:
        values, most = np.asarray(row.direction.values), row.direction.most
        heat = scale(style.DIRECTION, -most, most)
        found.append(Panel(values, row.direction.title, numbers(values), heat))
    return found


def _draw_row(part: SubFigure, row: Row, panels: Sequence[Panel], top: float) -> None:
    heights = _bands(row, panels)
    bands = part.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_maps(bands[0], row, panels)
    if row.words:
        _draw_words(bands[1].subplots(), row.words, top, upright=_is_crowded(row.words))
    if row.others:
        axes = bands[-1].subplots(1, max(6, len(row.others)), squeeze=False)[0]
        for axis, picture in zip(axes, row.others, strict=False):
            lines = picture.title.split(", ")
            title = "\n".join(part for line in lines for part in textwrap.wrap(line, _LONGEST))
            show(axis, Picture(picture.image, title, picture.kind), size=style.SMALL)
        for axis in axes[len(row.others) :]:
            axis.set_axis_off()


def _draw_maps(part: SubFigure, row: Row, panels: Sequence[Panel]) -> None:
    """Images of equal size, each map with a thin axis for its colour bar."""
    down, across = _shape(panels)
    side = _bands(row, panels)[0] / down
    axes = part.subplots(down, 2 * across, width_ratios=[1.0, _BAR / side] * across, squeeze=False)
    (reference, empty), *rest = axes.reshape(-1, 2)
    empty.remove()
    for axis in axes[:, ::2].flat:
        axis.set_anchor("E")  # next to its bar
    draw_reference(reference, row.reference, panels[0].values.shape, boxes=row.boxes)
    for (axis, bar), panel in zip(rest, panels, strict=True):
        title, below = panel.title, panel.below
        draw_map(axis, panel.values, panel.heat, title=title, below=below, boxes=row.boxes)
        draw_scale(bar, panel.heat)
        bar.set_box_aspect(side / _BAR)


def _draw_words(
    axis: Axes, words: Sequence[tuple[str, float]], top: float, *, upright: bool
) -> None:
    """A bar for each word. They share the scale of the sheet."""
    names, shares = zip(*words, strict=True)
    drawn = axis.bar(range(len(names)), shares, 0.7, color=style.COLOURS[0])
    axis.bar_label(drawn, [f"{share:.0%}" for share in shares], fontsize=style.SMALL, padding=1)
    axis.set_xticks(range(len(names)), names, fontsize=style.TEXT, parse_math=False)
    if upright:
        axis.tick_params(axis="x", rotation=90)
    axis.tick_params(length=0)
    axis.set(xlim=(-0.6, max(len(names), 6) - 0.4), ylim=(0, top * 1.25))
    axis.set_yticks([0, top])
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.tick_params(axis="y", labelsize=style.SMALL)
    axis.set_title(
        "share of the attention by word, mean over cells", fontsize=style.TITLE, loc="left"
    )
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def show(axis: Axes, picture: Picture, *, size: int = style.TITLE) -> None:
    """The image with its title and frame."""
    colour, width, line = _FRAMES[picture.kind]
    axis.imshow(picture.image, interpolation="nearest")
    ink = "black" if picture.kind == "other" else colour
    axis.set_title(picture.title, fontsize=size, color=ink, parse_math=False)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(edgecolor=colour, linewidth=width, linestyle=line)
