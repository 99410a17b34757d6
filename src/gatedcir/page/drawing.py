"""Maps -> small pictures for a page, and a query with its results -> one sheet."""

import base64
import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from gatedcir.page.asked import Asked
from gatedcir.page.engine import Found

_CELL, _GAP, _CAPTION, _COLUMNS = 180, 14, 44, 6  # pixels of a sheet, and its columns
_INK, _PAPER, _PALE = "#1a1a1a", "#ffffff", "#5c5c5c"


def as_address(image: Image.Image) -> str:
    """A picture as an address that holds it."""
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def heat(values: npt.ArrayLike, *, top: float, colours: str) -> Image.Image:
    """A map [h, w] from 0 to `top` in colours, a pixel for each cell.

    >>> heat([[0.0, 1.0]], top=1, colours="gray").getdata()[1]
    (255, 255, 255)
    """
    shown = np.clip(np.asarray(values, dtype=float) / top, 0, 1)
    return Image.fromarray(matplotlib.colormaps[colours](shown, bytes=True)[..., :3])


def sheet(
    asked: Asked,
    results: Sequence[tuple[str, Sequence[Found]]],
    thumbnail: Callable[[str], bytes],
) -> bytes:
    """A PNG of a query and its results, a band for each model. `thumbnail` gives a picture."""
    width = _COLUMNS * (_CELL + _GAP) + _GAP
    bands = [-(-max(1, len(found)) // _COLUMNS) for _, found in results]
    height = _CELL + 2 * _GAP + sum(rows * (_CELL + _CAPTION) + 34 for rows in bands) + _GAP
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    left = _GAP
    if asked.reference is not None:
        _paste(page, thumbnail(asked.reference), (left, _GAP))
        left += _CELL + _GAP
    lines = [f"{weight:g} × {text}" if weight != 1 else text for text, weight in asked.texts]
    lines = [part for line in lines or ["(no text)"] for part in textwrap.wrap(line, 60)][:6]
    draw.multiline_text((left, _GAP), "\n".join(lines), _INK, _font(20))
    below = f"alpha × {asked.alpha:g}, {len(asked.more)} more like, {len(asked.less)} less like"
    draw.text((left, _GAP + _CELL - 18), below, _PALE, _font(13))
    top = _CELL + 2 * _GAP
    for (name, found), rows in zip(results, bands, strict=True):
        draw.text((_GAP, top + 4), name, _INK, _font(15))
        top += 30
        for place, one in enumerate(found):
            row, column = divmod(place, _COLUMNS)
            corner = _GAP + column * (_CELL + _GAP), top + row * (_CELL + _CAPTION)
            _paste(page, thumbnail(one.picture), corner)
            caption = f"{one.rank}.  {one.score:.4f}\n{_short(one.name)}"
            draw.multiline_text((corner[0], corner[1] + _CELL + 3), caption, _INK, _font(12))
        top += rows * (_CELL + _CAPTION) + 4
    content = io.BytesIO()
    page.save(content, "PNG")
    return content.getvalue()


def _paste(page: Image.Image, content: bytes, corner: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(content)) as opened:
        opened.thumbnail((_CELL, _CELL))
        x, y = corner[0] + (_CELL - opened.width) // 2, corner[1] + (_CELL - opened.height) // 2
        page.paste(opened, (x, y))


def _short(name: str, most: int = 26) -> str:
    """A name of at most so many letters.

    >>> _short("a long name.png", 9)
    'a lo….png'
    """
    return name if len(name) <= most else f"{name[: most - 5]}…{name[-4:]}"


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font of the charts, which has Greek and Cyrillic letters too."""
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(file, size)
