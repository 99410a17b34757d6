"""Edits of scenes: kinds, fulfilment, hand-counted broken parts, phrases that fit one thing."""

import random
from collections import defaultdict
from dataclasses import replace

import pytest

from gatedcir.synthetic import edits as edits_module
from gatedcir.synthetic import scenes as scenes_module
from gatedcir.synthetic.edits import Edit, between, broken_parts, phrase, phrase_all, refer
from gatedcir.synthetic.scenes import BACKGROUND_SLOT, CELLS, COLOURS, SIZES, TEXTURES, Scene, Thing

CIRCLE = Thing("circle", "red", "solid", "large")
STAR = Thing("star", "blue", "striped", "small")
MOON = Thing("moon", "green", "dotted", "small")
CROSS = Thing("cross", "black", "outlined", "large")


def place(things: dict[int, Thing], background: str = "white") -> Scene:
    return Scene(tuple(things.get(cell) for cell in range(len(CELLS))), background)


REFERENCE = place({0: CIRCLE, 4: STAR, 6: MOON})

# kind -> slots, values, and what every request for it must say
CASES = {
    "recolour": ((0,), (replace(CIRCLE, colour="purple"),), ("circle", "purple")),
    "replace": ((4,), (CROSS,), ("star", "large black outlined cross")),
    "retexture": ((4,), (replace(STAR, texture="dotted"),), ("star", "dotted")),
    "resize": ((6,), (replace(MOON, size="large"),), ("moon",)),
    "remove": ((6,), (None,), ("moon",)),
    "add": ((8,), (CROSS,), ("large black outlined cross", "bottom right")),
    "move": ((0, 1, 2), (None, None, CIRCLE), ("circle", "top right")),
    "swap": ((0, 4), (STAR, CIRCLE), ("circle", "star")),
    "count": ((4, 5, 7), (STAR, STAR, STAR), ("three small blue striped stars", "one", "make it")),
    "background": ((BACKGROUND_SLOT,), ("mint",), ("mint",)),
}


def edit_of(kind: str) -> Edit:
    slots, values, _ = CASES[kind]
    return between(REFERENCE, slots, values)


def target_of(kind: str) -> Scene:
    slots, values, _ = CASES[kind]
    return REFERENCE.replaced(dict(zip(slots, values, strict=True)))


@pytest.mark.parametrize("kind", CASES)
def test_a_change_has_its_kind_and_its_target_fulfils_it(kind):
    edit, target = edit_of(kind), target_of(kind)
    assert edit.kind == kind
    assert edit.is_fulfilled(target)
    assert edit.is_fulfilled(target.replaced({3: CROSS}))  # what else is shown does not matter
    assert not edit.is_fulfilled(REFERENCE)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("recolour", {0: replace(CIRCLE, colour="green")}),
        ("recolour", {0: replace(CIRCLE, colour="purple", size="small")}),
        ("recolour", {0: None, 1: replace(CIRCLE, colour="purple")}),
        ("replace", {4: replace(CROSS, texture="solid")}),
        ("retexture", {4: replace(STAR, texture="solid")}),
        ("resize", {6: replace(MOON, size="large", shape="heart")}),
        ("remove", {6: MOON}),
        ("add", {8: replace(CROSS, colour="brown")}),
        ("add", {8: None, 7: CROSS}),
        ("move", {2: None, 1: CIRCLE}),
        ("move", {0: CIRCLE}),
        ("swap", {0: CIRCLE}),
        ("count", {5: None}),
        ("count", {5: replace(STAR, size="large")}),
        ("background", {BACKGROUND_SLOT: "pink"}),
    ],
)
def test_near_misses_do_not_fulfil(kind, wrong):
    assert not edit_of(kind).is_fulfilled(target_of(kind).replaced(wrong))


def test_a_change_of_shape_or_of_several_attributes_replaces():
    for value in (replace(STAR, shape="heart"), replace(STAR, colour="red", size="large")):
        assert between(REFERENCE, (4,), (value,)).kind == "replace"


def test_an_open_place_is_fulfilled_wherever_the_copies_are():
    edit = Edit("add", (1, 2, 3), thing=CROSS, copies=1)
    assert edit.is_fulfilled(place({1: CROSS})) and edit.is_fulfilled(place({3: CROSS}))
    assert not edit.is_fulfilled(place({}))
    assert not edit.is_fulfilled(place({1: CROSS, 2: CROSS}))
    assert not edit.is_fulfilled(place({1: CROSS, 2: MOON}))
    assert not edit.is_fulfilled(place({5: CROSS}))
    three = edit_of("count")
    assert (three.thing, three.copies) == (STAR, 3)
    fewer = between(place({0: STAR, 1: STAR}), (0, 1, 2), (None, None, STAR))
    assert (fewer.kind, fewer.copies) == ("count", 1)


def test_broken_parts_are_counted_by_hand():
    recolour = [edit_of("recolour")]
    target = target_of("recolour")

    def broken(candidate: Scene) -> int:
        return broken_parts(REFERENCE, recolour, candidate)

    assert broken(target) == 0
    assert broken(REFERENCE) == 1
    assert broken(target.replaced({6: None})) == 1
    assert broken(target.replaced({4: CROSS, 6: None})) == 2
    assert broken(target.replaced({BACKGROUND_SLOT: "pink"})) == 1
    # Additions are one part, however many; a moved thing is missing here and added there.
    assert broken(target.replaced({8: CROSS})) == 1
    assert broken(target.replaced({7: CROSS, 8: CROSS})) == 1
    assert broken(target.replaced({6: None, 7: MOON})) == 2
    # The edit, both other things, the background, and an addition.
    assert broken(place({8: CROSS}, "pink")) == 5


def test_broken_parts_of_two_edits():
    both = [edit_of("add"), edit_of("background")]
    target = REFERENCE.replaced({8: CROSS, BACKGROUND_SLOT: "mint"})
    assert broken_parts(REFERENCE, both, target) == 0
    assert broken_parts(REFERENCE, both, target_of("add")) == 1
    assert broken_parts(REFERENCE, both, REFERENCE) == 2
    assert broken_parts(REFERENCE, iter(both), REFERENCE.replaced({0: None})) == 3


def test_every_subset_of_faults_adds_up():
    """The parts are independent: with faults in disjoint parts the counts add."""
    edits = [edit_of("recolour"), edit_of("background")]
    target = target_of("recolour").replaced({BACKGROUND_SLOT: "mint"})
    faults = [(0, CIRCLE), (BACKGROUND_SLOT, "sky"), (4, None), (6, CROSS), (8, MOON)]
    for subset in range(2 ** len(faults)):
        chosen = dict(fault for bit, fault in enumerate(faults) if subset >> bit & 1)
        assert broken_parts(REFERENCE, edits, target.replaced(chosen)) == len(chosen)


@pytest.mark.parametrize("kind", [*CASES, "add anywhere", "make smaller"])
def test_each_kind_has_five_ways_to_ask_and_all_say_what_is_needed(kind):
    scene = REFERENCE
    if kind == "add anywhere":
        edit, needed = Edit("add", (1, 2), thing=CROSS, copies=1), ("large black outlined cross",)
    elif kind == "make smaller":
        edit, needed = between(scene, (0,), (replace(CIRCLE, size="small"),)), ("circle",)
    else:
        edit, needed = edit_of(kind), CASES[kind][2]
    rng = random.Random(0)
    said = {phrase(scene, edit, rng) for _ in range(400)}
    # Without the names of things and places, only the wording is left.
    names = scenes_module.words() | {"to", "one", "three", "stars"}
    wordings = {" ".join(word for word in text.split() if word not in names) for text in said}
    assert len(wordings) >= 5
    for text in said:
        if kind == "count":  # the number before the change may stay unsaid
            assert needed[0] in text
            assert "one small blue striped star" not in text
        else:
            assert all(part in text for part in needed)
        assert set(text.replace(",", "").split()) <= scenes_module.words() | edits_module.words()


def test_sizes_are_asked_for_in_the_right_direction():
    rng = random.Random(1)
    up, down = edit_of("resize"), between(REFERENCE, (0,), (replace(CIRCLE, size="small"),))
    larger = {word for _ in range(200) for word in phrase(REFERENCE, up, rng).split()}
    smaller = {word for _ in range(200) for word in phrase(REFERENCE, down, rng).split()}
    assert {"bigger", "enlarge", "larger", "increase"} <= larger
    assert {"smaller", "shrink", "reduce"} <= smaller
    assert not larger & {"smaller", "shrink", "reduce"}
    assert not smaller & {"bigger", "enlarge", "larger", "increase"}


def test_several_edits_are_asked_for_in_one_sentence_in_any_order():
    edits = [edit_of("background"), edit_of("remove")]
    rng = random.Random(0)
    firsts = set()
    for _ in range(60):
        text = phrase_all(REFERENCE, edits, rng)
        assert "mint" in text and "moon" in text
        firsts.add(text.index("mint") < text.index("moon"))
        assert set(text.replace(",", "").split()) <= scenes_module.words() | edits_module.words()
    assert firsts == {True, False}


def fitting(scene: Scene, text: str) -> list[int]:
    """The cells of the things that a noun phrase fits, read word by word."""
    assert text.startswith("the ")
    for joint in (" in the ", " at the "):
        if joint in text:
            noun, where = text.removeprefix("the ").split(joint)
            cell = CELLS.index(where)
            thing = scene.cells[cell]
            return [cell] if thing is not None and thing.shape == noun else []
    *adjectives, noun = text.removeprefix("the ").split()
    names = {"colour": COLOURS, "texture": TEXTURES, "size": SIZES}
    asked = {name: a for a in adjectives for name in names if a in names[name]}
    assert len(asked) == len(adjectives)
    return [
        cell
        for cell in scene.occupied
        if (thing := scene.cells[cell]) is not None
        and thing.shape == noun
        and all(getattr(thing, name) == value for name, value in asked.items())
    ]


def test_a_noun_phrase_fits_exactly_one_thing():
    """Crowded scenes of much alike things, where a careless phrase would fit several."""
    rng = random.Random(3)
    seen: dict[str, int] = defaultdict(int)
    for _ in range(400):
        cells = {
            cell: Thing(
                rng.choice(("star", "moon")),
                rng.choice(("red", "blue")),
                rng.choice(("solid", "dotted", "striped")),
                rng.choice(SIZES),
            )
            for cell in rng.sample(range(9), rng.randint(1, 6))
        }
        scene = place(cells)
        for cell in cells:
            text = refer(scene, cell, rng)
            assert fitting(scene, text) == [cell], f"{text} in {scene}"
            seen["place" if " the " in text else f"{len(text.split()) - 2} attributes"] += 1
    assert set(seen) == {"place", "0 attributes", "1 attributes", "2 attributes"}
    assert min(seen.values()) > 30
