"""Maps -> figures."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gatedcir.files import whole_file

_RIGHT, _WRONG = "#1a9850", "#bbbbbb"


@dataclass(frozen=True)
class Picture:
    """An image [H, W, 3] in [0, 1] with a title. `right` frames it as the answer."""

    image: npt.ArrayLike
    title: str
    right: bool = False


def save_gate_figure(
    path: Path,
    *,
    reference: Picture,
    gate: npt.ArrayLike,
    text: str,
    others: Sequence[Picture] = (),
) -> None:
    """Reference, the gate map [H, W] over it with its colour bar, then other pictures in a row.

    The heat scale covers the map's own range, and the colour bar names it. The gate's mean differs
    between models, so a map shows where the gate opens more than elsewhere.
    """
    columns = 2 + len(others)
    lines = textwrap.wrap(text, 20 * columns)
    size = (2.1 * columns + 0.6, 2.8 + 0.2 * len(lines))  # inches
    figure = Figure(figsize=size, layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, columns, squeeze=False)[0]
    show(axes[0], reference)
    axes[1].imshow(reference.image, interpolation="nearest")
    heat = axes[1].imshow(gate, cmap="hot", alpha=0.65)
    axes[1].set_title("Gate Activation Map", fontsize=9)
    axes[1].set_axis_off()
    bar = figure.colorbar(heat, ax=axes[1], shrink=0.8)
    bar.ax.tick_params(labelsize=7)
    for axis, picture in zip(axes[2:], others, strict=True):
        show(axis, picture)
    figure.suptitle("\n".join(lines), fontsize=10, parse_math=False)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110)


def show(axis: Axes, picture: Picture) -> None:
    """The image with its title and frame."""
    axis.imshow(picture.image, interpolation="nearest")
    axis.set_title(picture.title, fontsize=9, color=_RIGHT if picture.right else "black")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_edgecolor(_RIGHT if picture.right else _WRONG)
        spine.set_linewidth(4 if picture.right else 1)
