"""What truly changes: the boxes against the pictures, and each kind of change by hand."""

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageChops

from gatedcir.data.changes import ANYWHERE, BACKGROUND
from gatedcir.synthetic import garments, scenes, true_changes
from gatedcir.synthetic.edits import Edit, between
from gatedcir.synthetic.scenes import BACKGROUND_SLOT, BACKGROUNDS, Scene, Thing

STAR = Thing("star", "red", "solid", "large")
MOON = Thing("moon", "blue", "dotted", "small")
EMPTY = Scene((None,) * 9, "white")
SCENE = EMPTY.replaced({0: STAR, 4: MOON, 8: STAR})


@pytest.mark.parametrize("cell", [0, 4, 8])
@pytest.mark.parametrize("thing", [STAR, MOON])
def test_a_box_is_where_the_picture_differs_from_its_background(cell, thing):
    scene = EMPTY.replaced({cell: thing})
    picture = scenes.draw(scene, random.Random(cell))
    plain = Image.new("RGB", picture.size, BACKGROUNDS["white"])
    [box] = scenes.boxes(scene, random.Random(cell)).values()
    assert ImageChops.difference(picture, plain).getbbox() == box


def changed(edits, target):
    """The kinds and boxes of a request to change SCENE, every cell with a box of its own."""
    before = {cell: (cell / 10, 0.0, cell / 10 + 0.1, 0.5) for cell in SCENE.occupied}
    after = {cell: (cell / 10, 0.25, cell / 10 + 0.1, 1.0) for cell in target.occupied}
    found = true_changes.scene_changes(edits, SCENE, target, before, after)
    return [(change.kind, change.boxes) for change in found]


def box(cell, top, bottom):
    return (cell / 10, top, cell / 10 + 0.1, bottom)


def test_each_kind_of_change_has_the_places_that_it_is_about():
    def to(values):
        return SCENE.replaced(values)

    def one(slots, values):
        return [between(SCENE, slots, values)]

    small = replace(STAR, size="small")
    both = box(0, 0.0, 1.0)  # around the old and the new box
    assert changed(one((0,), (small,)), to({0: small})) == [("resize", (both,))]
    assert changed(one((0,), (MOON,)), to({0: MOON})) == [("replace", (both,))]
    assert changed(one((0,), (None,)), to({0: None})) == [("remove", (box(0, 0.0, 0.5),))]
    assert changed(one((2,), (MOON,)), to({2: MOON})) == [("add", (box(2, 0.25, 1.0),))]
    moved = ("move", (box(0, 0.0, 0.5), box(1, 0.25, 1.0)))
    assert changed(one((0, 1, 2), (None, STAR, None)), to({0: None, 1: STAR})) == [moved]
    swapped = ("swap", (both, box(4, 0.0, 1.0)))
    assert changed(one((0, 4), (MOON, STAR)), to({0: MOON, 4: STAR})) == [swapped]
    count = Edit("count", (0, 1, 2, 8), thing=STAR, copies=3)
    more = ("count", (box(1, 0.25, 1.0),))
    assert changed([count], to({1: STAR})) == [more]
    added = Edit("add", (1, 2, 3, 5, 6, 7), thing=MOON, copies=1)
    somewhere = (ANYWHERE, (box(5, 0.25, 1.0),))
    assert changed([added], to({5: MOON})) == [somewhere]
    pink = one((BACKGROUND_SLOT,), ("pink",))
    assert changed(pink, to({BACKGROUND_SLOT: "pink"})) == [(BACKGROUND, ((0.0, 0.0, 1.0, 1.0),))]


def test_a_swap_names_two_things_of_a_scene():
    objects = true_changes.scene_objects(SCENE, random.Random(0))
    texts = set()
    for seed in range(20):
        swap = true_changes.scene_swap("name", SCENE, objects, random.Random(seed))
        (here,), (there,) = swap.boxes
        assert here != there
        assert {here, there} <= set(objects.values())
        # The moon is in the middle; the stars can be told apart only by their places.
        for (caption,), each in zip(swap.captions, (here, there), strict=True):
            assert ("moon" in caption) == (each == objects[4])
        texts.add(swap.captions)
    assert len(texts) > 10
    alone = EMPTY.replaced({0: STAR})
    one = true_changes.scene_objects(alone, random.Random(0))
    assert true_changes.scene_swap("name", alone, one, random.Random(0)) is None


def garment(seed, category):
    return garments.sample(category, "train", random.Random(seed))


def covered(boxes, size):
    """The pixels inside boxes: [H, W]."""
    width, height = size
    inside = np.zeros((height, width), dtype=bool)
    for left, top, right, bottom in boxes:
        rows = slice(round(top * height), round(bottom * height))
        inside[rows, round(left * width) : round(right * width)] = True
    return inside


@pytest.mark.parametrize("category", garments.ATTRIBUTES)
def test_nothing_of_a_garment_differs_outside_of_the_boxes(category):
    for seed in range(4):
        reference, other = garment(seed, category), garment(seed + 100, category)
        for attribute in reference.differences(other):
            after = reference.but(**{attribute: other[attribute]})
            boxes = true_changes.differing_boxes(reference, after)
            before, now = (
                np.asarray(garments.draw(each, size=64)).astype(int) for each in (reference, after)
            )
            differs = np.abs(before - now).max(-1) > 24
            inside = covered(boxes, (48, 64))
            assert (differs & ~inside).sum() < 8  # single pixels are no place
            assert differs[inside].any() == bool(boxes)


def test_parts_of_a_garment_are_where_one_expects_them():
    values = ("red", "solid", "long", "v", "long", "tight", "none", "none")
    dress = garments.Garment("dress", values)
    [belt], *_ = [c.boxes for c in true_changes.garment_changes(dress, dress.but(belt="with"))]
    assert belt[1] == pytest.approx(45 / 128, abs=0.04)  # as the belt is drawn
    assert belt[3] == pytest.approx(56 / 128, abs=0.04)
    left, right = true_changes.garment_changes(dress, dress.but(sleeves="none"))[0].boxes
    assert min(left[0], right[0]) < 0.1 and max(left[2], right[2]) > 0.9
    [whole] = true_changes.garment_objects(dress)
    [recoloured] = true_changes.garment_changes(dress, dress.but(colour="blue"))
    assert (recoloured.kind, recoloured.boxes) == ("recolour", (whole,))
    kinds = true_changes.garment_changes(
        dress, dress.but(pattern="dotted", fit="loose", buttons="with")
    )
    assert [change.kind for change in kinds] == ["retexture", "resize", "add"]
    taken = true_changes.garment_changes(dress.but(belt="with"), dress)
    assert [change.kind for change in taken] == ["remove"]


def test_a_swap_of_garments_changes_parts_that_do_not_overlap():
    found = [
        true_changes.garment_swap("name", garment(seed, "dress"), random.Random(seed))
        for seed in range(8)
    ]
    assert any(found)
    for swap in filter(None, found):
        here, there = (covered(boxes, (96, 128)) for boxes in swap.boxes)
        assert here.any() and there.any() and not (here & there).any()
        assert swap.captions[0] != swap.captions[1]
