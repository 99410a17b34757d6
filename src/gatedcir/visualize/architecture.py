"""Parts of a model, and what goes from one to the next -> text, or a picture in SVG.

The parts lie in rows and columns. Everything is plain data, so that a picture is the same whenever
the parts are.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from gatedcir.errors import plain

Kind = Literal["data", "frozen", "trained", "loss"]
_FILLS = {"data": "#ffffff", "frozen": "#dbe7f3", "trained": "#fde3c4", "loss": "#dcefd9"}
_MEANINGS = {
    "data": "input",
    "frozen": "frozen weights",
    "trained": "trained weights",
    "loss": "losses",
}
# Pixels. At half of this size the small letters are those of a page.
_WIDTH, _GAP, _MARGIN, _PAD = 440, 60, 30, 16
_TITLE, _TEXT, _LINE = 26, 22, 30
_LETTERS, _BOLD = 0.53, 1.15  # width of a letter by its height, on average, and of a bold one
_INK, _ARROW = "#1f2933", "#52606d"
_SVG = "http://www.w3.org/2000/svg"


@dataclass(frozen=True)
class Part:
    """A box of the picture."""

    name: str
    title: str
    lines: tuple[str, ...] = ()
    """What it does, in short."""
    gives: str = ""
    """The shape of its output."""
    trained: int = 0
    """Of its parameters, those that are trained."""
    frozen: int = 0
    kind: Kind = "trained"
    row: int = 0
    column: int = 0
    span: int = 1
    """Columns that it covers."""
    reads: tuple[str, ...] = ()
    """Names of the parts whose output it takes."""

    @property
    def texts(self) -> tuple[str, ...]:
        """All lines below the title."""
        return (*self.lines, *filter(None, [self.gives and f"→ {self.gives}", self.parameters]))

    @property
    def parameters(self) -> str:
        """How many there are of each kind. Empty without any.

        >>> Part("a", "A", trained=1_250_000, frozen=300).parameters
        '1.25 M trained, 300 frozen'
        """
        counts = {"trained": self.trained, "frozen": self.frozen}
        return ", ".join(f"{readable(count)} {kind}" for kind, count in counts.items() if count)


def readable(count: int) -> str:
    """A number of parameters in three digits.

    >>> [readable(n) for n in (7, 1408, 45_612, 3_000_000, 986_000_000)]
    ['7', '1.41 k', '45.6 k', '3.00 M', '986 M']
    """
    for size, unit in ((10**6, " M"), (10**3, " k")):
        if count >= size:
            value = count / size
            return f"{value:.{max(0, 3 - len(str(int(value))))}f}{unit}"
    return str(count)


def to_text(parts: Sequence[Part], letters: Mapping[str, str]) -> str:
    """One paragraph a part, in order, and the letters of the shapes.

    >>> tower = Part("tower", "Tower", ("6 blocks",), gives="[B, L, Dv]", frozen=12)
    >>> print(to_text([tower, Part("gate", "Gate", reads=("tower",))], {"B": "batch"}))
    Tower
      6 blocks
      → [B, L, Dv]
      12 frozen
    <BLANKLINE>
    Gate, reads Tower
    <BLANKLINE>
    B: batch
    """
    titles = {part.name: part.title for part in parts}
    paragraphs = []
    for part in parts:
        sources = " and ".join(titles[name] for name in part.reads)
        head = part.title + f", reads {sources}" * bool(sources)
        paragraphs.append("\n".join([head, *(f"  {line}" for line in part.texts)]))
    return "\n\n".join([*paragraphs, ", ".join(f"{k}: {v}" for k, v in letters.items())])


@dataclass(frozen=True)
class _Box:
    """Where a part lies, and its wrapped lines."""

    left: float
    top: float
    width: float
    height: float
    titles: list[str]
    lines: list[str]

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def middle(self) -> float:
        return self.top + self.height / 2


def to_svg(parts: Sequence[Part], letters: Mapping[str, str], *, title: str) -> str:
    """The picture as the text of a file. It needs no other file."""
    boxes, bottom = _place(parts)
    columns = max(part.column + part.span for part in parts)
    width = 2 * _MARGIN + columns * _WIDTH + (columns - 1) * _GAP
    notes = _notes(letters, width - 2 * _MARGIN)
    height = bottom + _LINE * (len(notes) + 2) + _MARGIN
    root = ElementTree.Element(
        "svg",
        {"xmlns": _SVG, "viewBox": f"0 0 {width} {height:g}", "font-family": "sans-serif"},
    )
    ElementTree.SubElement(root, "title").text = title
    marker = {"id": "arrow", "viewBox": "0 0 10 10", "refX": "9", "refY": "5", "orient": "auto"}
    head = ElementTree.SubElement(
        ElementTree.SubElement(root, "defs"),
        "marker",
        {**marker, "markerWidth": "7", "markerHeight": "7"},
    )
    ElementTree.SubElement(head, "path", {"d": "M0 0L10 5L0 10z", "fill": _ARROW})
    _rectangle(root, 0, 0, width, height, fill="#ffffff", line="none")
    for part in parts:
        for source in part.reads:
            _arrow(root, boxes[source], boxes[part.name])
    for part in parts:
        _draw(root, part, boxes[part.name])
    _draw_key(root, bottom, notes, kinds={part.kind for part in parts})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _place(parts: Sequence[Part]) -> tuple[dict[str, _Box], float]:
    """Boxes by name, each row as high as its highest one, and where the last row ends."""
    boxes, top = {}, float(_MARGIN)
    for row in sorted({part.row for part in parts}):
        found = [part for part in parts if part.row == row]
        titles = [_wrapped(part.title, _width(part), size=_BOLD * _TITLE) for part in found]
        lines = [
            [line for text in part.texts for line in _wrapped(text, _width(part))] for part in found
        ]
        most = max(len(one) + len(other) for one, other in zip(titles, lines, strict=True))
        height = 2 * _PAD + _TITLE + _LINE * (most - 1)
        for part, *texts in zip(found, titles, lines, strict=True):
            left = _MARGIN + part.column * (_WIDTH + _GAP)
            boxes[part.name] = _Box(left, top, _width(part), height, *texts)
        top += height + _GAP
    return boxes, top - _GAP + _MARGIN


def _width(part: Part) -> int:
    return part.span * _WIDTH + (part.span - 1) * _GAP


def _wrapped(text: str, width: int, *, size: float = _TEXT) -> list[str]:
    return textwrap.wrap(plain(text), int((width - 2 * _PAD) / (size * _LETTERS)))


def _notes(letters: Mapping[str, str], width: int) -> list[str]:
    """The letters in lines, none of which breaks a meaning."""
    items = [
        f"{letter}: {meaning}".replace(" ", "\N{NO-BREAK SPACE}")
        for letter, meaning in letters.items()
    ]
    lines = textwrap.wrap(", ".join(items), int(width / (_TEXT * _LETTERS)))
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _arrow(root: ElementTree.Element, source: _Box, target: _Box) -> None:
    """From the bottom of a box down to another one, or to its side if that is not below."""
    left, right = max(source.left, target.left), min(source.right, target.right)
    if left < right and source.bottom < target.top:
        place = (left + right) / 2
        points = [(place, source.bottom), (place, target.top)]
    elif source.top == target.top:
        points = [(source.right, source.middle), (target.left, target.middle)]
    else:
        place = source.right - _GAP
        points = [(place, source.bottom), (place, target.middle), (target.left, target.middle)]
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    attributes = {"d": path, "fill": "none", "stroke": _ARROW, "stroke-width": "3"}
    ElementTree.SubElement(root, "path", {**attributes, "marker-end": "url(#arrow)"})


def _draw(root: ElementTree.Element, part: Part, box: _Box) -> None:
    fill = _FILLS[part.kind]
    _rectangle(root, box.left, box.top, box.width, box.height, fill=fill, line=_INK)
    left, top = box.left + _PAD, box.top + _PAD + _TITLE * 0.8
    for number, line in enumerate([*box.titles, *box.lines]):
        bold = number < len(box.titles)
        size = _TITLE if bold else _TEXT
        _text(root, left, top + number * _LINE, line, size=size, bold=bold)


def _draw_key(
    root: ElementTree.Element, top: float, notes: Sequence[str], *, kinds: set[Kind]
) -> None:
    """What the colours and the letters mean."""
    left = _MARGIN
    for kind in (kind for kind in _FILLS if kind in kinds):
        _rectangle(root, left, top, _TEXT, _TEXT, fill=_FILLS[kind], line=_INK)
        _text(root, left + 1.5 * _TEXT, top + _TEXT * 0.85, _MEANINGS[kind], size=_TEXT)
        left += round((len(_MEANINGS[kind]) * _LETTERS + 3.5) * _TEXT)
    for number, line in enumerate(notes, 1):
        _text(root, _MARGIN, top + _TEXT + number * _LINE, line, size=_TEXT)


def _rectangle(
    root: ElementTree.Element,
    left: float,
    top: float,
    width: float,
    height: float,
    *,
    fill: str,
    line: str,
) -> None:
    sizes = {"x": left, "y": top, "width": width, "height": height, "rx": 8}
    attributes = {name: f"{value:g}" for name, value in sizes.items()}
    ElementTree.SubElement(root, "rect", {**attributes, "fill": fill, "stroke": line})


def _text(
    root: ElementTree.Element, left: float, top: float, text: str, *, size: int, bold: bool = False
) -> None:
    attributes = {"x": f"{left:g}", "y": f"{top:g}", "font-size": str(size), "fill": _INK}
    weight = {"font-weight": "bold"} if bold else {}
    ElementTree.SubElement(root, "text", {**attributes, **weight}).text = text
