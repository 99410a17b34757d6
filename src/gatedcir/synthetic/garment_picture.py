"""Garment -> picture. Every attribute stays visible when the picture is shrunk to 64 pixels."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from PIL import Image, ImageDraw

from gatedcir.synthetic.garment_values import Garment

Point = tuple[float, float]
Colour = tuple[int, int, int]

# Lengths below are in units of 1/128 of the picture's height. x is counted from the middle.
_HEIGHT, _WIDTH, _OVERSAMPLING = 128, 96, 2
_PAPER, _SKIN, _CREAM, _INK = (246, 244, 239), (232, 212, 196), (252, 249, 238), (40, 36, 44)

# Brightness must follow `garment_text.LEVELS["colour"]`. Else "darker" would be wrong.
PALETTE: dict[str, Colour] = {
    "black": (45, 45, 52),
    "purple": (104, 30, 140),
    "blue": (28, 66, 190),
    "red": (216, 36, 46),
    "green": (40, 155, 70),
    "orange": (245, 130, 24),
    "pink": (250, 150, 200),
    "yellow": (252, 218, 44),
}
_BRIGHT = ("orange", "pink", "yellow")  # these carry a dark pattern, the others a cream one

_HEM = {"short": 76.0, "knee": 99.0, "long": 122.0, "cropped": 70.0, "hip": 93.0, "tunic": 118.0}
_TOP_HALF_WIDTHS = {"tight": (16.0, 15.0), "regular": (20.0, 22.0), "loose": (23.0, 34.0)}


class _Sheet:
    """A canvas for drawing in the units above."""

    def __init__(self, size: int) -> None:
        self.scale = size * _OVERSAMPLING / _HEIGHT
        pixels = (round(_WIDTH * self.scale), round(_HEIGHT * self.scale))
        self.image = Image.new("RGB", pixels, _PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def pixels(self, points: Sequence[Point]) -> list[Point]:
        return [((_WIDTH / 2 + x) * self.scale, y * self.scale) for x, y in points]

    def line(self, points: Sequence[Point], *, width: float = 1.7) -> None:
        self.pen.line(self.pixels(points), _INK, max(1, round(width * self.scale)), "curve")

    def shape(self, points: Sequence[Point], fill: Colour, *, outline: bool = True) -> None:
        self.pen.polygon(self.pixels(points), fill)
        if outline:
            self.line([*points, points[0]])

    def cloth(self, points: Sequence[Point], fabric: Image.Image) -> None:
        mask = Image.new("1", self.image.size)
        ImageDraw.Draw(mask).polygon(self.pixels(points), 1)
        self.image.paste(fabric, mask=mask)
        self.line([*points, points[0]])

    def disc(self, x: float, y: float, radius: float, fill: Colour, *, outline: bool) -> None:
        box = self.pixels([(x - radius, y - radius), (x + radius, y + radius)])
        width = round(1.7 * self.scale) if outline else 0
        self.pen.ellipse([*box[0], *box[1]], fill, _INK, width)


def draw(garment: Garment, *, size: int = 128) -> Image.Image:
    """The garment on a plain figure: RGB, `size` pixels high and three quarters as wide.

    Raises:
        ValueError: if `size` is below 32 pixels, where the details would be lost.
    """
    if size < 32:
        raise ValueError(f"a garment needs a height of 32 pixels or more, not {size}")
    sheet = _Sheet(size)
    fabric = _fabric(garment["colour"], garment["pattern"], sheet.image.size)
    shoulder, side = (_dress if garment.category == "dress" else _top)(garment)
    _figure(sheet, shoulder)
    for sign in (-1, 1):
        if sleeve := _sleeve(garment["sleeves"], shoulder):
            sheet.cloth([(sign * x, y) for x, y in sleeve], fabric)
    sheet.cloth([*side, *((-x, y) for x, y in reversed(side))], fabric)
    _neckline(sheet, garment["neckline"], shoulder, fabric)
    hem_half, hem = side[-1]
    worn = {name: garment[name] for name in garment.attributes if garment[name] != "none"}
    if "ruffles" in worn:
        _ruffles(sheet, hem_half, hem)
    if "buttons" in worn:
        _buttons(sheet, shoulder + 27, hem - 3)
    if "belt" in worn:
        _belt(sheet, side[3][0])
    if "pocket" in worn:
        sheet.shape([(5.5, 46), (16, 46), (16, 57), (10.7, 61), (5.5, 57)], _CREAM)
        sheet.line([(5.5, 49.5), (16, 49.5)])
    if "print" in worn:
        sheet.disc(0, 56, 11.5, _CREAM, outline=True)
        sheet.shape(_PRINTS[worn["print"]], _INK, outline=False)
    return sheet.image.resize((round(size * _WIDTH / _HEIGHT), size), Image.Resampling.BOX)


def _dress(garment: Garment) -> tuple[float, list[Point]]:
    """Height of the shoulders, and the right side from the neck to the hem."""
    hem = _HEM[garment["length"]]
    chest, waist, bottom = {
        "tight": (13.0, 9.5, 12.0),
        "loose": (17.0, 19.0, 23.0),
        "flared": (13.0, 9.5, 13 + 0.44 * (hem - 50)),
    }[garment["fit"]]
    return 16.0, [(8, 13), (17, 16), (chest, 34), (waist, 50), (bottom, hem)]


def _top(garment: Garment) -> tuple[float, list[Point]]:
    chest, bottom = _TOP_HALF_WIDTHS[garment["fit"]]
    return 18.0, [(8, 15), (18, 18), (chest, 40), (bottom, _HEM[garment["length"]])]


def _figure(sheet: _Sheet, shoulder: float) -> None:
    for sign in (-1, 1):
        arm = [(13, shoulder + 2), (16, shoulder + 2), (43, 92), (37, 94), (11, shoulder + 16)]
        leg = [(0, 30), (10, 30), (11, 70), (9, 128), (3, 128), (1, 76), (0, 74)]
        for part in (arm, leg):
            sheet.shape([(sign * x, y) for x, y in part], _SKIN, outline=False)
    sheet.shape([(-6, 3), (6, 3), (6, 24), (-6, 24)], _SKIN, outline=False)


def _sleeve(kind: str, shoulder: float) -> list[Point]:
    if kind == "none":
        return []
    start: list[Point] = [(11, shoulder + 20), (15, shoulder - 1), (19, shoulder + 1)]
    if kind == "short":
        return [*start, (34, shoulder + 24), (23, shoulder + 30)]
    return [*start, (47, 86), (36, 91)]


def _neckline(sheet: _Sheet, kind: str, shoulder: float, fabric: Image.Image) -> None:
    top = shoulder - 4
    if kind == "high":
        sheet.cloth([(-8, top + 7), (-7, top - 8), (7, top - 8), (8, top + 7)], fabric)
        return
    cuts: dict[str, list[Point]] = {
        "round": [
            (10.5 * math.cos(a / 6 * math.pi), 14 * math.sin(a / 6 * math.pi)) for a in range(7)
        ],
        "square": [(14, 0), (14, 19), (-14, 19), (-14, 0)],
        "v": [(12, 0), (0, 30), (-12, 0)],
        "collar": [(7, 0), (0, 13), (-7, 0)],
    }
    cut = [(x, top + y) for x, y in cuts[kind]]
    sheet.shape(cut, _SKIN, outline=False)
    sheet.line(cut)
    if kind == "collar":
        for sign in (-1, 1):
            flap = [(5.5, top - 4), (13, top + 4), (10, top + 19), (0, top + 13)]
            sheet.shape([(sign * x, y) for x, y in flap], _CREAM)


def _buttons(sheet: _Sheet, top: float, bottom: float) -> None:
    sheet.shape([(-4.5, top - 4), (4.5, top - 4), (4.5, bottom), (-4.5, bottom)], _CREAM)
    for step in range(int((bottom - top) // 9) + 1):
        sheet.disc(0, top + 1 + 9 * step, 2.8, _INK, outline=False)


def _belt(sheet: _Sheet, waist: float) -> None:
    half = waist + 2.5
    sheet.shape([(-half, 46), (half, 46), (half, 55), (-half, 55)], _CREAM)
    sheet.shape([(-5, 45), (5, 45), (5, 56), (-5, 56)], _INK)


def _ruffles(sheet: _Sheet, half: float, hem: float) -> None:
    count = max(3, round(half / 4))
    for step in range(count):
        sheet.disc(
            half * ((2 * step + 1) / count - 1), hem, half / count + 1.2, _CREAM, outline=True
        )


def _star() -> list[Point]:
    radii = (9.5, 3.8)
    turns = [(radii[k % 2], math.pi * k / 5) for k in range(10)]
    return [(r * math.sin(turn), 56 - r * math.cos(turn)) for r, turn in turns]


def _heart() -> list[Point]:
    turns = [2 * math.pi * k / 24 for k in range(24)]
    return [
        (
            8.5 * math.sin(t) ** 3,
            55 - 0.52 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)),
        )
        for t in turns
    ]


_PRINTS = {"star": _star(), "heart": _heart()}


@lru_cache(maxsize=128)
def _fabric(colour: str, pattern: str, pixels: tuple[int, int]) -> Image.Image:
    base = PALETTE[colour]
    second = _INK if colour in _BRIGHT else _CREAM
    image = Image.new("RGB", pixels, base)
    pen, scale = ImageDraw.Draw(image), pixels[1] / _HEIGHT
    if pattern != "solid":
        _WEAVES[pattern](pen, scale, base, second)
    return image


def _box(x: float, y: float, width: float, height: float, scale: float) -> list[float]:
    return [x * scale, y * scale, (x + width) * scale - 1, (y + height) * scale - 1]


def _stripes(pen: ImageDraw.ImageDraw, scale: float, base: Colour, second: Colour) -> None:
    for y in range(0, _HEIGHT, 11):
        pen.rectangle(_box(0, y, _WIDTH, 4.5, scale), second)


def _dots(pen: ImageDraw.ImageDraw, scale: float, base: Colour, second: Colour) -> None:
    for row, y in enumerate(range(0, _HEIGHT, 9)):
        for x in range(-6 * (row % 2), _WIDTH, 12):
            pen.ellipse(_box(x, y, 6, 6, scale), second)


def _checks(pen: ImageDraw.ImageDraw, scale: float, base: Colour, second: Colour) -> None:
    red, green, blue = ((one + other) // 2 for one, other in zip(base, second, strict=True))
    columns, rows = range(3, _WIDTH, 14), range(3, _HEIGHT, 14)
    for x in columns:
        pen.rectangle(_box(x, 0, 7, _HEIGHT, scale), (red, green, blue))
    for y in rows:
        pen.rectangle(_box(0, y, _WIDTH, 7, scale), (red, green, blue))
        for x in columns:
            pen.rectangle(_box(x, y, 7, 7, scale), second)


def _flowers(pen: ImageDraw.ImageDraw, scale: float, base: Colour, second: Colour) -> None:
    for row, y in enumerate(range(4, _HEIGHT + 8, 16)):
        for x in range(6 - 11 * (row % 2), _WIDTH + 8, 22):
            for petal in range(5):
                turn = 2 * math.pi * petal / 5
                left, top = x + 5 * math.sin(turn) - 3.6, y - 5 * math.cos(turn) - 3.6
                pen.ellipse(_box(left, top, 7.2, 7.2, scale), second)
            pen.ellipse(_box(x - 3, y - 3, 6, 6, scale), base)


_WEAVES: dict[str, Callable[[ImageDraw.ImageDraw, float, Colour, Colour], None]] = {
    "striped": _stripes,
    "dotted": _dots,
    "checked": _checks,
    "floral": _flowers,
}
