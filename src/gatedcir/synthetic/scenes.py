"""Scenes of coloured shapes on a 3 x 3 grid: their content, their pictures, their descriptions.

A scene is ten slots: nine cells (row by row, each empty or holding one `Thing`) and the background.
A modification changes some slots and must leave the others as they are.
"""

import functools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "heart", "moon")
COLOURS = {
    "red": (214, 39, 40),
    "orange": (255, 140, 20),
    "yellow": (245, 220, 30),
    "green": (30, 140, 50),
    "blue": (35, 75, 215),
    "purple": (135, 50, 165),
    "brown": (120, 70, 35),
    "black": (25, 25, 25),
}
TEXTURES = ("solid", "striped", "dotted", "outlined")
SIZES = ("small", "large")
BACKGROUNDS = {
    "white": (252, 252, 252),
    "grey": (176, 178, 182),
    "pink": (255, 196, 214),
    "mint": (184, 240, 206),
    "sky": (176, 218, 255),
    "beige": (236, 218, 178),
}
CELLS = (
    "top left", "top centre", "top right",
    "middle left", "centre", "middle right",
    "bottom left", "bottom centre", "bottom right",
)  # fmt: skip
BACKGROUND_SLOT = len(CELLS)


@dataclass(frozen=True)
class Thing:
    """One shape with its attributes, without its place."""

    shape: str
    colour: str
    texture: str
    size: str


@dataclass(frozen=True)
class Scene:
    """Nine cells, row by row, and the background's name."""

    cells: tuple[Thing | None, ...]
    background: str

    def __getitem__(self, slot: int) -> Thing | str | None:
        return self.background if slot == BACKGROUND_SLOT else self.cells[slot]

    def replaced(self, values: dict[int, Thing | str | None]) -> "Scene":
        """The same scene with the given slots set to other values."""
        slots = [values.get(slot, self[slot]) for slot in range(BACKGROUND_SLOT + 1)]
        return Scene(tuple(slots[:-1]), slots[-1])  # type: ignore[arg-type]

    @property
    def occupied(self) -> list[int]:
        """Cells that hold a thing."""
        return [cell for cell, thing in enumerate(self.cells) if thing is not None]

    @property
    def free(self) -> list[int]:
        """Cells that hold nothing."""
        return [cell for cell, thing in enumerate(self.cells) if thing is None]

    def things(self) -> list[Thing]:
        """The things, in the order of their cells."""
        return [thing for thing in self.cells if thing is not None]


def split_of(thing: Thing) -> str:
    """The split that owns a combination of shape, colour and texture: train, val or test.

    The rule is a Latin square. It holds out one eighth of the 256 combinations for val and one
    eighth for test, while every pair of values still occurs in train.
    """
    rank = (
        SHAPES.index(thing.shape)
        + list(COLOURS).index(thing.colour)
        + 2 * TEXTURES.index(thing.texture)
    )
    return {0: "val", 5: "test"}.get(rank % 8, "train")


def allowed_in(thing: Thing, split: str) -> bool:
    """Whether a split may show a thing. Only its own combinations and train's are allowed."""
    return split_of(thing) in ("train", split)


def sample_thing(rng: random.Random, split: str, *, held_out: bool = False) -> Thing:
    """A random thing that `split` may show. `held_out` asks for a combination that it owns."""
    while True:
        thing = Thing(
            rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(TEXTURES), rng.choice(SIZES)
        )
        if split_of(thing) == split if held_out else allowed_in(thing, split):
            return thing


def sample_scene(rng: random.Random, split: str) -> Scene:
    """Two to four things on random cells. At least one of them is of the split's own kind."""
    cells: list[Thing | None] = [None] * len(CELLS)
    for number, cell in enumerate(rng.sample(range(len(CELLS)), rng.choice((2, 3, 3, 4)))):
        cells[cell] = sample_thing(rng, split, held_out=number == 0)
    return Scene(tuple(cells), rng.choice(list(BACKGROUNDS)))


def draw(scene: Scene, rng: random.Random, *, size: int = 128) -> Image.Image:
    """The scene as an RGB picture of `size` x `size` pixels. `rng` moves each thing a little."""
    picture = Image.new("RGB", (size, size), BACKGROUNDS[scene.background])
    for _, glyph, corner in _glyphs(scene, rng, size):
        picture.paste(glyph, corner, glyph)
    return picture


def boxes(
    scene: Scene, rng: random.Random, *, size: int = 128
) -> dict[int, tuple[int, int, int, int]]:
    """The box of each thing by its cell: left, top, right and bottom in pixels.

    It is that of the picture which `draw` makes with an equal `rng`.
    """
    found = {}
    for cell, glyph, (x, y) in _glyphs(scene, rng, size):
        left, top, right, bottom = glyph.getchannel("A").getbbox() or (0, 0, *glyph.size)
        found[cell] = (x + left, y + top, x + right, y + bottom)
    return found


def _glyphs(
    scene: Scene, rng: random.Random, size: int
) -> Iterator[tuple[int, Image.Image, tuple[int, int]]]:
    """Each thing's cell, its picture, and where the picture's top left corner goes."""
    step = size / 3
    wobble = size / 96
    for cell in scene.occupied:
        glyph = _glyph(scene.cells[cell], size)
        x = (cell % 3 + 0.5) * step + rng.uniform(-wobble, wobble) - glyph.width / 2
        y = (cell // 3 + 0.5) * step + rng.uniform(-wobble, wobble) - glyph.height / 2
        yield cell, glyph, (round(x), round(y))


@functools.cache
def _glyph(thing: Thing, picture_size: int) -> Image.Image:
    """An RGBA picture of one thing, drawn four times too large and reduced for smooth edges."""
    radius = round(picture_size * (0.16 if thing.size == "large" else 0.115))
    side = 8 * radius
    mask = Image.new("L", (side, side), 0)
    _fill_shape(ImageDraw.Draw(mask), thing.shape, side)
    ink = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(ink)
    if thing.texture == "striped":
        for k in range(1, 7, 2):
            pen.rectangle((0, side * k // 7, side, side * (k + 1) // 7), fill=0)
    elif thing.texture == "dotted":
        for row in range(3):
            for column in range(3):
                x, y = side * (2 * column + 1.5) / 7, side * (2 * row + 1.5) / 7
                pen.ellipse((x - side / 12, y - side / 12, x + side / 12, y + side / 12), fill=0)
    elif thing.texture == "outlined":
        # Rounded down: a wider line would fill the arms of a small cross.
        width = max(1, radius // 4)
        eroded = ImageOps.expand(mask.reduce(4), width).filter(ImageFilter.MinFilter(2 * width + 1))
        ink = ImageChops.invert(ImageOps.crop(eroded, width).resize((side, side)))
    glyph = Image.new("RGBA", (side, side), (*COLOURS[thing.colour], 255))
    # Gaps of a texture are white inside the shape, so that they are visible on every background.
    light = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    glyph = Image.composite(glyph, light, ink)
    if thing.texture == "outlined":
        mask = ImageChops.multiply(mask, ink)
    glyph.putalpha(mask)
    return glyph.reduce(4)


def _fill_shape(pen: ImageDraw.ImageDraw, shape: str, side: int) -> None:
    """Fill one shape with 255 on a square canvas of `side` pixels."""

    def polygon(*points: tuple[float, float]) -> None:
        pen.polygon([(x * side, y * side) for x, y in points], fill=255)

    def ellipse(left: float, top: float, right: float, bottom: float, fill: int = 255) -> None:
        pen.ellipse((left * side, top * side, right * side, bottom * side), fill=fill)

    if shape == "circle":
        ellipse(0.02, 0.02, 0.98, 0.98)
    elif shape == "square":
        polygon((0.08, 0.08), (0.92, 0.08), (0.92, 0.92), (0.08, 0.92))
    elif shape == "triangle":
        polygon((0.5, 0.02), (1, 0.95), (0, 0.95))
    elif shape == "star":
        angles = [math.pi * (k / 5 - 0.5) for k in range(10)]
        radii = [0.52, 0.21] * 5
        polygon(
            *(
                (0.5 + r * math.cos(a), 0.52 + r * math.sin(a))
                for a, r in zip(angles, radii, strict=True)
            )
        )
    elif shape == "diamond":
        polygon((0.5, 0), (0.85, 0.5), (0.5, 1), (0.15, 0.5))
    elif shape == "cross":
        polygon((0.35, 0), (0.65, 0), (0.65, 1), (0.35, 1))
        polygon((0, 0.35), (1, 0.35), (1, 0.65), (0, 0.65))
    elif shape == "heart":
        ellipse(0, 0.05, 0.54, 0.58)
        ellipse(0.46, 0.05, 1, 0.58)
        polygon((0.04, 0.43), (0.96, 0.43), (0.5, 0.98))
    else:
        ellipse(0.02, 0.02, 0.98, 0.98)
        ellipse(0.48, -0.1, 1.14, 0.56, fill=0)


def name_thing(thing: Thing, *, attributes: tuple[str, ...]) -> str:
    """'large red striped circle' from the given attributes. The shape is always named."""
    words = [getattr(thing, name) for name in ("size", "colour", "texture") if name in attributes]
    return " ".join([*words, thing.shape])


def describe(scene: Scene, rng: random.Random, *, keep: float = 1.0) -> str:
    """A caption that names every thing with its attributes and place, in random order and wording.

    With `keep` below 1, each attribute word and each place is left out with probability 1 - keep.
    """
    parts = [
        _phrase("a", scene.cells[cell], cell, rng, keep)
        for cell in rng.sample(scene.occupied, len(scene.occupied))
    ]
    background = [_background(scene, rng)] if rng.random() < keep else []
    return " ".join([rng.choice((", ", " and ", ", ")).join(parts), *background])


def describe_change(before: Scene, after: Scene, rng: random.Random, *, keep: float = 1.0) -> str:
    """A caption of all that is new in `after`, and of the things of `before` that are gone.

    With `keep` below 1, words are left out as in `describe`.

    >>> star = Thing("star", "red", "dotted", "small")
    >>> before = Scene((star, *[None] * 8), "white")
    >>> describe_change(before, Scene((None,) * 9, "pink"), random.Random(1))
    'no small red dotted star in the top left with a pink background'
    """
    differing = [cell for cell in range(len(CELLS)) if before.cells[cell] != after.cells[cell]]
    parts = []
    for cell in rng.sample(differing, len(differing)):
        gone = after.cells[cell] is None
        thing = before.cells[cell] if gone else after.cells[cell]
        parts.append(_phrase("no" if gone else "a", thing, cell, rng, keep))
    background = [_background(after, rng)] if before.background != after.background else []
    return " ".join([*([rng.choice((", ", " and ")).join(parts)] if parts else []), *background])


def _phrase(article: str, thing: Thing | None, cell: int, rng: random.Random, keep: float) -> str:
    """One thing with its place ("a large red circle at the top left"), without some words."""
    assert thing is not None
    said = tuple(
        name
        for name in ("size", "colour", "texture")
        if rng.random() < keep and not (name == "texture" and thing.texture == "solid")
    )
    place = f" {rng.choice(('at', 'in', 'on'))} the {CELLS[cell]}" if rng.random() < keep else ""
    return f"{article} {name_thing(thing, attributes=said)}{place}"


def _background(scene: Scene, rng: random.Random) -> str:
    wording = rng.choice(("on a {} background", "with a {} background", "background {}"))
    return wording.format(scene.background)


def words() -> set[str]:
    """Every word that descriptions and the names of slots can produce."""
    named = [*SHAPES, *COLOURS, *TEXTURES, *SIZES, *BACKGROUNDS, *CELLS]
    return {word for name in named for word in name.split()} | set(
        "a an and at in no on the with background".split()
    )
