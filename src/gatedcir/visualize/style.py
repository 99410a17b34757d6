"""The one style of all figures: colours, letters, frames, and how a figure becomes a file."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure

from gatedcir.errors import UserError
from gatedcir.files import whole_file
from gatedcir.outputs import check_own

FORMATS = ("png", "svg", "pdf")
# Okabe and Ito (2008): colour-blind eyes can tell these apart too. Black is for the baseline.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS, LINES = "osD^vP", ("-", "--", "-.", ":")
GREY = "#777777"
RIGHT, NEAR, REFERENCE, WRONG = "#1a9850", "#D55E00", "#7b3294", "#bbbbbb"
"""Frames: the answer in the first place, the answer further down, the query's own image, others."""
# These read in grey and to colour-blind eyes. The first two are perceptually uniform.
GATE, CHANGE, DIRECTION = "viridis", "magma", "PuOr"
TITLE, TEXT, SMALL = 9, 8, 7  # points, of a figure that is drawn in its own size
WIDTH = 4.4
"""Inches of a figure. In half a column, 85 mm, its small letters still have 5 points."""
_DOTS = 200  # an inch
# Journals ask for TrueType letters in a PDF. The salt makes equal figures equal files.
_FILES = {"pdf.fonttype": 42, "svg.hashsalt": "gatedcir", "font.family": "DejaVu Sans"}


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all. The ending says the format: png, svg or pdf.

    Raises:
        UserError: another ending, or a picture of others is there.
    """
    if path.suffix.lower()[1:] not in FORMATS:
        raise UserError(f"{path} is to be a picture; let its name end with .png, .svg or .pdf.")
    check_own(path, "picture")
    with whole_file(path) as unfinished, mpl.rc_context(_FILES), _laid_out_undrawn(figure):
        figure.savefig(unfinished, dpi=_DOTS)


def svg_of(figure: Figure) -> str:
    """A figure as an <svg> element for a page."""
    content = io.StringIO()
    with mpl.rc_context(_FILES), _laid_out_undrawn(figure):
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue().partition("<svg")[1] + content.getvalue().partition("<svg")[2]


@contextmanager
def _laid_out_undrawn(figure: Figure) -> Iterator[None]:
    """Matplotlib draws a figure that it lays out twice, the first time into nothing.

    Here the first time lays it out and draws no part of it, which takes a seventh less time.
    """
    engine, draw = figure.get_layout_engine(), figure.draw

    def lay_out_or_draw(renderer: RendererBase) -> None:
        if engine is not None and figure.get_layout_engine() is engine:
            engine.execute(figure)
        else:
            draw(renderer)

    figure.draw = lay_out_or_draw  # type: ignore[method-assign]
    try:
        yield
    finally:
        del figure.draw


def plain(axes: Axes, *, grid: Literal["x", "y", "both"]) -> None:
    """Take away the lines of an axis that say nothing, and draw a faint grid."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, alpha=0.25)
    axes.tick_params(labelsize=TEXT)
