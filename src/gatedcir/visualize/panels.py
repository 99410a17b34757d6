"""Bars and maps of one image -> one figure, in which rows of few maps stand next to each other."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from gatedcir.visualize import style
from gatedcir.visualize.cells import draw_map, draw_reference, draw_scale, numbers, scale

_CELL, _SIDE = 0.93, 0.85  # inches from map to map, and of a map
_LINE, _LETTER = 0.125, 0.062  # inches of a line, and of a letter of a bold title
_BAR, _SCALE = 0.06, 0.5  # inches of a colour bar, and of it with its numbers and unit
_COLUMNS = 4
_WIDTH = _COLUMNS * _CELL + 2 * _SCALE  # inches of a sheet: in 85 mm, small letters have 5 points
_ABOVE, _BELOW = 2, 4  # lines of a map's title and of its numbers
_FEW_BARS = 4  # in one column


Row = Sequence[tuple[str, npt.ArrayLike]]
"""Maps [h, w], each with its title."""


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
    rows: Sequence[Row]
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


class _Block(NamedTuple):
    """What stands together in a shelf, and is not broken."""

    columns: int
    title: str
    draw: Callable[[SubFigure], None]
    bars: int = 0
    """Of colours."""
    is_first: bool = True
    """Whether no part of the same maps stands before it."""

    @property
    def width(self) -> float:
        """Inches."""
        return self.columns * _CELL + self.bars * _SCALE

    @property
    def lines(self) -> list[str]:
        """The title, broken to this width."""
        letters = max(8, int(self.width / _LETTER))
        return [line for part in self.title.splitlines() for line in textwrap.wrap(part, letters)]


def save_panels(
    path: Path, *, reference: npt.ArrayLike, text: str, bars: Sequence[Bars], maps: Sequence[Maps]
) -> None:
    """The image [H, W, 3] with the bars, and below them all `Maps`, which fill shelves of four."""
    cells = np.shape(maps[0].rows[0][0][1])
    image = _Block(1, "", lambda part: _draw_image(part, reference, cells))
    shelves = shelved([image, *map(_bars_block, bars), *_map_blocks(maps)])
    heights = [_height(shelf) for shelf in shelves]
    title = textwrap.wrap(text, int(0.8 * _WIDTH / _LETTER))
    size = (_WIDTH, sum(heights) + 0.2 * len(title))
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.04, wspace=0, hspace=0)
    figure = Figure(figsize=size, layout=layout)
    figure.suptitle("\n".join(title), fontsize=style.TITLE, parse_math=False)
    parts = figure.subfigures(len(shelves), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, shelf in zip(parts, shelves, strict=True):
        _draw_shelf(part, shelf)
    style.save(figure, path)


def shelved(blocks: Sequence[_Block]) -> list[list[_Block]]:
    """Blocks in shelves, each in the first one with room, but none before its own first part.

    >>> rows = [_Block(n, "", print, bars=1) for n in (3, 4, 2, 1)]
    >>> [[block.columns for block in shelf] for shelf in shelved(rows)]
    [[3, 1], [4], [2]]
    """
    shelves: list[list[_Block]] = []
    earliest = 0
    for block in blocks:
        start = 0 if block.is_first else earliest
        room = (
            place
            for place, shelf in enumerate(shelves)
            if place >= start and sum(one.width for one in [*shelf, block]) < _WIDTH + 0.01
        )
        earliest = next(room, len(shelves))
        if earliest == len(shelves):
            shelves.append([])
        shelves[earliest].append(block)
    return shelves


def _map_blocks(maps: Sequence[Maps]) -> list[_Block]:
    """A block for each row of maps. A longer row is broken."""
    found = []
    for band in maps:
        rows = [row[n : n + _COLUMNS] for row in band.rows for n in range(0, len(row), _COLUMNS)]
        for place, row in enumerate(rows):

            def draw(part: SubFigure, band: Maps = band, row: Row = row) -> None:
                _draw_maps(part, band, row)

            found.append(_Block(len(row), band.title, draw, bars=1, is_first=place == 0))
    return found


def _bars_block(group: Bars) -> _Block:
    columns = -(-len(group.labels) * len(group.series) // _FEW_BARS)
    legend = len(group.series) > 1

    def draw(part: SubFigure) -> None:
        _draw_bars(part.subplots(), group)

    return _Block(min(columns, _COLUMNS), group.title, draw, bars=int(legend))


def _height(shelf: Sequence[_Block]) -> float:
    titles = max(len(block.lines) for block in shelf)
    return _SIDE + (titles + _ABOVE + _BELOW) * _LINE + 0.36


def _draw_shelf(part: SubFigure, shelf: Sequence[_Block]) -> None:
    """Blocks next to each other, whose titles have as many lines. The rest stays empty."""
    widths = [block.width for block in shelf]
    rest = _WIDTH - sum(widths)
    widths += [rest] * (rest > _SCALE)
    parts = part.subfigures(1, len(widths), width_ratios=widths, squeeze=False)[0]
    titles = max(len(block.lines) for block in shelf)
    for one, block in zip(parts, shelf, strict=False):
        padded = [*block.lines, *[""] * (titles - len(block.lines))]
        title = "\n".join(padded) or None
        if title:
            one.suptitle(title, fontsize=style.SMALL, weight="bold", parse_math=False)
        block.draw(one)


def _draw_image(part: SubFigure, reference: npt.ArrayLike, cells: tuple[int, ...]) -> None:
    axis = part.subplots()
    draw_reference(axis, reference, cells, size=style.SMALL)
    axis.set_title(_above("reference"), fontsize=style.SMALL)
    axis.set_xlabel(_below(""), fontsize=style.SMALL)


def _above(title: str) -> str:
    """A map's title, in as many lines as all others have."""
    return "\n" * (_ABOVE - 1 - title.count("\n")) + title


def _below(numbers: str) -> str:
    """The same of what stands below a map."""
    return numbers + "\n" * (_BELOW - 1 - numbers.count("\n"))


def _draw_bars(axis: Axes, group: Bars) -> None:
    places = np.arange(len(group.labels))
    width = 0.8 / len(group.series)
    upright = 90 if len(group.series) > 1 else 0  # narrow bars
    for number, (name, values) in enumerate(group.series.items()):
        shift = (number - (len(group.series) - 1) / 2) * width
        colour = style.COLOURS[number % len(style.COLOURS)]
        drawn = axis.bar(places + shift, values, width * 0.95, label=name, color=colour)
        axis.bar_label(drawn, fmt="%.2f", fontsize=style.SMALL, rotation=upright, padding=1)
    kind, _, first = group.labels[0].partition(" ")
    names = [label.removeprefix(f"{kind} ") for label in group.labels]
    axis.set_xticks(places, names if first else group.labels)
    axis.set_xlabel(_below(kind if first else ""), fontsize=style.SMALL)
    axis.set_title(_above(""), fontsize=style.SMALL)
    axis.set_yticks([0, 0.5, 1])
    axis.tick_params(labelsize=style.SMALL)
    every = [value for values in group.series.values() for value in values]
    axis.set_ylim(1.45 * min(0, *every), 1.45 * max(1, *every))
    if len(group.series) > 1:
        axis.legend(
            fontsize=style.SMALL,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            frameon=False,
            handlelength=0.8,
            handletextpad=0.3,
            borderaxespad=0,
        )


def _draw_maps(part: SubFigure, band: Maps, row: Row) -> None:
    axes = part.subplots(1, len(row) + 1, width_ratios=[*[_CELL] * len(row), _BAR])
    is_share = band.ends[0] == 0
    heat = scale(style.GATE if is_share else style.DIRECTION, *band.ends)
    for axis, (name, values) in zip(axes, row, strict=False):
        below = _below(numbers(values, share=is_share).replace(", ", "\n"))
        title = _above(name.replace(", ", "\n"))
        draw_map(axis, values, heat, title=title, below=below, size=style.SMALL)
    draw_scale(axes[-1], heat)
    axes[-1].set_box_aspect(_SIDE / _BAR)
    axes[-1].set_ylabel(band.unit, fontsize=style.SMALL)
