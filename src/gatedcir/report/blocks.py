"""The parts of a page: texts, tables, charts and cards of pictures, as one HTML file.

Everything that is written comes from somebody's files: names, texts, options. The template escapes
all of it. The page loads nothing and runs nothing, and its own policy forbids both.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from gatedcir.files import write_text
from gatedcir.visualize.style import svg_of

_QUALITY = 80  # of a JPEG


@dataclass(frozen=True)
class Text:
    """A paragraph, a heading, or lines as they are."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """Rows of texts. All columns but the first are numbers, unless `words` says otherwise."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    words: bool = False
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Chart:
    """A figure, as an image in the page."""

    source: str
    alt: str

    @classmethod
    def of(cls, figure: Figure, alt: str) -> "Chart":
        """A figure of matplotlib, in vectors."""
        return cls(_address("svg+xml", svg_of(figure).encode()), alt)


@dataclass(frozen=True)
class Charts:
    """Several charts, as many next to each other as there is room for. Wide ones stand alone."""

    charts: Sequence[Chart]
    wide: bool = False
    kind: str = field(default="charts", init=False)


@dataclass(frozen=True)
class Tile:
    """A small picture with what is written below it. `kind` frames it, as in all sheets."""

    source: str
    """An address of `picture`, or empty if the file is gone."""
    caption: str
    alt: str
    kind: str = "other"


@dataclass(frozen=True)
class Card:
    """One query: its text, a note, and rows of pictures."""

    text: str
    note: str
    rows: Sequence[Sequence[Tile]]


@dataclass(frozen=True)
class Cards:
    """Several cards."""

    cards: Sequence[Card]
    kind: str = field(default="cards", init=False)


Block = Text | Table | Charts | Cards


@dataclass(frozen=True)
class Section:
    """A part of a page with its title."""

    title: str
    blocks: Sequence[Block]


def picture(image: Image.Image, *, side: int) -> str:
    """An image as an address that holds it, no larger than `side` pixels."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=_QUALITY)
    return _address("jpeg", content.getvalue())


def exact(image: Image.Image) -> str:
    """An image as an address that holds every pixel as it is."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return _address("png", content.getvalue())


def page_of(title: str, sections: Sequence[Section], *, intro: str = "") -> str:
    """The HTML of a page."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = (files("gatedcir.report") / "page.html.j2").read_text(encoding="utf-8")
    template = environment.from_string(text)
    return template.render(title=title, intro=intro, sections=sections) + "\n"


def write_page(path: Path, title: str, sections: Sequence[Section], *, intro: str = "") -> None:
    """Write a page whole or not at all."""
    write_text(path, page_of(title, sections, intro=intro))


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
