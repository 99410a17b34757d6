"""One map, cell by cell in the colours of a stated scale, with its numbers: the same everywhere."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patheffects import Stroke

from gatedcir.visualize import style
from gatedcir.visualize.maps import map_numbers

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in fractions of the picture."""
DEVIATIONS = 3.0
"""At the ends of the colours of a principal component."""


def scale(colours: str, low: float, high: float) -> ScalarMappable:
    """Colours from one number to another. Values beyond have the colour of the end."""
    return ScalarMappable(Normalize(low, high), colours)


def numbers(values: npt.ArrayLike, form: str = "z.2f", *, share: bool = False) -> str:
    """Two lines below a map: its least and greatest value, its mean, and how much is over 0.5.

    Args:
        values: [h, w].
        form: how a number is written.
        share: whether the values are from 0 to 1, so that 0.5 is their middle.

    >>> numbers([[0.0, 0.5], [0.75, 0.75]], share=True).splitlines()
    ['min 0.00, max 0.75', 'mean 0.50, 50% over 0.5']
    """
    found = map_numbers(values)
    return f"{found:{form}}" + f", {found.over_half:.0%} over 0.5" * share


def draw_map(
    axis: Axes,
    values: npt.ArrayLike,
    heat: ScalarMappable,
    *,
    title: str,
    below: str,
    boxes: Sequence[Box] = (),
    size: int = style.TITLE,
) -> None:
    """A map [h, w] without smoothing, a title above and numbers below."""
    low, high = heat.get_clim()
    extent = (0, 1, 1, 0)
    axis.imshow(values, heat.cmap, vmin=low, vmax=high, interpolation="nearest", extent=extent)
    _finish(axis, np.shape(values), boxes, title, below, line="#ffffff60", size=size)


def draw_reference(
    axis: Axes,
    image: npt.ArrayLike,
    cells: tuple[int, ...],
    *,
    boxes: Sequence[Box] = (),
    size: int = style.TITLE,
) -> None:
    """The image [H, W, 3] of maps, with the lines between their cells."""
    axis.imshow(image, interpolation="nearest", extent=(0, 1, 1, 0))
    below = "dashed: what\ntruly changes" if boxes else ""
    _finish(axis, cells, boxes, "reference", below, line="#00000030", size=size)


def draw_scale(bar: Axes, heat: ScalarMappable, *, across: bool = False) -> None:
    """The colours with their ends and middle, in an axis of their own."""
    assert bar.figure is not None
    bar.figure.colorbar(heat, cax=bar, orientation="horizontal" if across else "vertical")
    low, high = heat.get_clim()
    ticks = [low, (low + high) / 2, high]
    axis = bar.xaxis if across else bar.yaxis
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    bar.tick_params(labelsize=style.SMALL, length=2, pad=1)


def _finish(
    axis: Axes,
    cells: tuple[int, ...],
    boxes: Sequence[Box],
    title: str,
    below: str,
    *,
    line: str,
    size: int,
) -> None:
    """The lines between cells, the outlines of boxes, and what is written."""
    axis.vlines(np.linspace(0, 1, cells[1] + 1), 0, 1, color=line, linewidth=0.4)
    axis.hlines(np.linspace(0, 1, cells[0] + 1), 0, 1, color=line, linewidth=0.4)
    around = [Stroke(linewidth=2.2, foreground="black"), Stroke(linewidth=1, foreground="white")]
    for left, top, right, bottom in boxes:
        corners = [left, right, right, left, left], [top, top, bottom, bottom, top]
        axis.plot(*corners, linestyle=(0, (4, 2)), color="white", path_effects=around)
    axis.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
    axis.set_title(title, fontsize=size, parse_math=False)
    axis.set_xlabel(below, fontsize=min(size, style.TEXT))
