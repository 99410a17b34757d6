"""Where each request truly changes its reference: what the writers of synthetic data know.

Scenes know the place of every thing. For garments, the picture is drawn again with one attribute
changed, and the places are where the two pictures differ.
"""

import random
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy import ndimage

from gatedcir.data.changes import ANYWHERE, BACKGROUND, Box, Change, Swap
from gatedcir.synthetic import garments, scenes
from gatedcir.synthetic.edits import Edit, between, phrase
from gatedcir.synthetic.garments import Garment
from gatedcir.synthetic.scenes import BACKGROUND_SLOT, COLOURS, SIZES, TEXTURES, Scene, Thing

MOST_SWAPS = 256  # of a split
SCENE_SIZE, GARMENT_SIZE = (128, 128), (96, 128)
_SIDE = 128  # of a scene's picture
_VALUES = {"colour": tuple(COLOURS), "texture": TEXTURES, "size": SIZES}
_WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
# Garments are compared at half their size.
_HEIGHT, _VISIBLE, _GAP, _SPECK = 64, 24, 2, 4  # pixels, levels of 255, pixels, pixels
_KIND_OF = {"colour": "recolour", "pattern": "retexture", "neckline": "replace"}
_RESIZED = ("sleeves", "length", "fit")


def scene_objects(scene: Scene, rng: random.Random) -> dict[int, Box]:
    """The box of each thing by its cell, in the picture that an equal `rng` draws."""
    return {
        cell: _box(*(side / _SIDE for side in box))
        for cell, box in scenes.boxes(scene, rng, size=_SIDE).items()
    }


def scene_changes(
    edits: Iterable[Edit],
    reference: Scene,
    target: Scene,
    before: dict[int, Box],
    after: dict[int, Box],
) -> tuple[Change, ...]:
    """The changes of a request, in the order of its edits.

    Args:
        edits: the request's.
        reference: the scene before.
        target: the scene after.
        before: boxes of the reference's things.
        after: boxes of the target's things.
    """
    changes = []
    for edit in edits:
        if edit.slots == (BACKGROUND_SLOT,):
            changes.append(Change(BACKGROUND, (_WHOLE,)))
            continue
        slots = [slot for slot in edit.slots if reference[slot] != target[slot]]
        kind = ANYWHERE if edit.kind == "add" and edit.copies else edit.kind
        places = (_around([boxes[s] for boxes in (before, after) if s in boxes]) for s in slots)
        changes.append(Change(kind, tuple(places)))
    return tuple(changes)


def scene_swap(name: str, scene: Scene, objects: dict[int, Box], rng: random.Random) -> Swap | None:
    """Two texts, each of which changes one thing of the scene. None if it has fewer than two."""
    if len(objects) < 2:
        return None
    one, other = rng.sample(sorted(objects), 2)
    first, second = (phrase(scene, _edit_one(scene, cell, rng), rng) for cell in (one, other))
    return Swap(name, ((first,), (second,)), ((objects[one],), (objects[other],)))


def _edit_one(scene: Scene, cell: int, rng: random.Random) -> Edit:
    """A thing removed, or with one attribute changed."""
    thing = scene.cells[cell]
    assert thing is not None
    attribute = rng.choice(["", *_VALUES])
    new: Thing | None = None
    if attribute:
        others = [value for value in _VALUES[attribute] if value != getattr(thing, attribute)]
        new = replace(thing, **{attribute: rng.choice(others)})
    return between(scene, (cell,), (new,))


def garment_objects(garment: Garment) -> tuple[Box, ...]:
    """The box of the garment: where its picture differs if all of it has another colour."""
    other = "black" if garment["colour"] != "black" else "yellow"
    return differing_boxes(garment, garment.but(colour=other))


def garment_changes(reference: Garment, target: Garment) -> tuple[Change, ...]:
    """The changes of all attributes in which two garments differ, each alone."""
    return tuple(
        Change(
            _kind(attribute, reference[attribute], target[attribute]),
            differing_boxes(reference, reference.but(**{attribute: target[attribute]})),
        )
        for attribute in reference.differences(target)
    )


def garment_swap(name: str, garment: Garment, rng: random.Random) -> Swap | None:
    """Two texts, each of which changes another part of the garment. None if none were found."""
    for _ in range(8):
        changed = []
        for attribute in rng.sample(garment.attributes, 2):
            choices = garments.ATTRIBUTES[garment.category][attribute]
            value = rng.choice([value for value in choices if value != garment[attribute]])
            changed.append(garment.but(**{attribute: value}))
        here, there = (differing_boxes(garment, each) for each in changed)
        if here and there and not any(_overlap(a, b) for a in here for b in there):
            one, other = (garments.captions(garment, each, rng)[0] for each in changed)
            return Swap(name, (one, other), (here, there))
    return None


@lru_cache(maxsize=4096)
def differing_boxes(before: Garment, after: Garment) -> tuple[Box, ...]:
    """Boxes around the places where the pictures of two garments differ."""
    one, other = (np.asarray(_small(each), dtype=np.int16) for each in (before, after))
    differs = np.abs(one - other).max(-1) > _VISIBLE  # [H, W]
    labels, _ = ndimage.label(ndimage.binary_dilation(differs, np.ones((3, 3)), _GAP))
    height, width = differs.shape
    found = []
    for number in range(1, labels.max() + 1):
        rows, columns = np.nonzero(differs & (labels == number))
        if len(rows) >= _SPECK:
            left, right = columns.min() / width, (columns.max() + 1) / width
            found.append(_box(left, rows.min() / height, right, (rows.max() + 1) / height))
    return tuple(found)


@lru_cache(maxsize=4096)
def _small(garment: Garment) -> Image.Image:
    return garments.draw(garment, size=_HEIGHT)


def _kind(attribute: str, before: str, after: str) -> str:
    if attribute in _RESIZED:
        return "resize"
    if attribute in _KIND_OF:
        return _KIND_OF[attribute]
    return {before: "add", after: "remove"}.get("none", "replace")


def _around(boxes: list[Box]) -> Box:
    """The smallest box around some boxes."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _overlap(one: Box, other: Box) -> bool:
    return all(max(one[axis], other[axis]) < min(one[axis + 2], other[axis + 2]) for axis in (0, 1))


def _box(left: float, top: float, right: float, bottom: float) -> Box:
    """The box inside of the image, with as many digits as a pixel needs."""
    return (
        round(max(float(left), 0.0), 4),
        round(max(float(top), 0.0), 4),
        round(min(float(right), 1.0), 4),
        round(min(float(bottom), 1.0), 4),
    )
