"""Scenes: held-out combinations, pictures that show every attribute, true descriptions."""

import random
import re
from collections import Counter
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from gatedcir.synthetic.scenes import (
    BACKGROUND_SLOT,
    BACKGROUNDS,
    CELLS,
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
    allowed_in,
    describe,
    describe_change,
    draw,
    name_thing,
    sample_scene,
    sample_thing,
    split_of,
    words,
)

HELD_OUT = ("val", "test")
VALUES = {"shape": SHAPES, "colour": tuple(COLOURS), "texture": TEXTURES, "size": SIZES}
STAR = Thing("star", "red", "striped", "large")
MOON = Thing("moon", "blue", "solid", "small")
COMBINATIONS = [
    Thing(shape, colour, texture, "small")
    for shape, colour, texture in product(SHAPES, COLOURS, TEXTURES)
]


def place(things: dict[int, Thing], background: str = "white") -> Scene:
    return Scene(tuple(things.get(cell) for cell in range(len(CELLS))), background)


def pixels(scene: Scene, size: int = 64, seed: int = 0) -> np.ndarray:
    return np.asarray(draw(scene, random.Random(seed), size=size)).astype(int)


def test_slots_are_nine_cells_and_the_background():
    scene = place({0: STAR, 5: MOON}, "pink")
    assert (scene[0], scene[5], scene[1], scene[BACKGROUND_SLOT]) == (STAR, MOON, None, "pink")
    assert scene.occupied == [0, 5]
    assert scene.free == [1, 2, 3, 4, 6, 7, 8]
    assert scene.things() == [STAR, MOON]
    changed = scene.replaced({0: None, 8: STAR, BACKGROUND_SLOT: "mint"})
    assert changed == place({5: MOON, 8: STAR}, "mint")
    assert scene == place({0: STAR, 5: MOON}, "pink")


def test_an_eighth_is_held_out_for_each_of_val_and_test():
    assert Counter(map(split_of, COMBINATIONS)) == {"train": 192, "val": 32, "test": 32}


def test_split_of_hand_counted_things():
    assert split_of(Thing("circle", "red", "solid", "small")) == "val"  # 0
    assert split_of(Thing("square", "brown", "solid", "large")) == "train"  # 1 + 6
    assert split_of(Thing("square", "brown", "dotted", "large")) == "train"  # 1 + 6 + 4
    assert split_of(Thing("square", "black", "solid", "large")) == "val"  # 1 + 7
    assert split_of(Thing("star", "yellow", "solid", "small")) == "test"  # 3 + 2
    assert split_of(Thing("star", "red", "striped", "small")) == "test"  # 3 + 2 x 1


@pytest.mark.parametrize("pair", [*combinations(("shape", "colour", "texture"), 2)], ids="-".join)
def test_every_pair_of_values_occurs_in_train(pair):
    trained = [thing for thing in COMBINATIONS if split_of(thing) == "train"]
    seen = {tuple(getattr(thing, name) for name in pair) for thing in trained}
    assert seen == set(product(*(VALUES[name] for name in pair)))


def test_a_split_shows_its_own_combinations_and_those_of_train():
    own = {split_of(thing): thing for thing in COMBINATIONS}
    shown = {(of, split) for of in own for split in own if allowed_in(own[of], split)}
    assert shown == {(s, s) for s in own} | {("train", split) for split in HELD_OUT}


@pytest.mark.parametrize("split", ["train", *HELD_OUT])
def test_sampled_scenes_keep_to_their_split(split):
    rng = random.Random(1)
    for _ in range(150):
        scene = sample_scene(rng, split)
        owners = {split_of(thing) for thing in scene.things()}
        assert 2 <= len(scene.things()) <= 4
        assert owners <= {split, "train"}
        assert split in owners
        assert split_of(sample_thing(rng, split, held_out=True)) == split


def test_pictures_have_the_size_asked_for_and_depend_on_the_generator_alone():
    scene = place({2: STAR, 4: MOON}, "sky")
    for size in (64, 128, 150):
        picture = draw(scene, random.Random(0), size=size)
        assert (picture.size, picture.mode) == ((size, size), "RGB")
        assert picture.tobytes() == draw(scene, random.Random(0), size=size).tobytes()
    moved = [draw(scene, random.Random(seed)).tobytes() for seed in range(4)]
    assert len(set(moved)) > 1
    assert draw(scene, random.Random(0)).size == (128, 128)


def test_a_thing_is_drawn_in_its_cell_on_its_background():
    for cell, background in product(range(len(CELLS)), BACKGROUNDS):
        picture = pixels(place({cell: STAR}, background), size=63)
        drawn = (picture != BACKGROUNDS[background]).any(-1)
        rows, columns = np.nonzero(drawn)
        assert set(rows // 21) == {cell // 3}
        assert set(columns // 21) == {cell % 3}


@pytest.mark.parametrize("attribute", VALUES)
def test_a_change_of_one_attribute_shows_at_64_pixels(attribute):
    others = [VALUES[name] for name in VALUES if name != attribute]
    # Red and black bound the contrast that a colour gives its shapes; colours are tried in full.
    kept = {"red", "black"} if attribute != "colour" else set(COLOURS)
    for values in product(*others):
        fixed = dict(zip((name for name in VALUES if name != attribute), values, strict=True))
        if fixed.get("colour", "red") not in kept:
            continue
        things = [Thing(**{**fixed, attribute: value}) for value in VALUES[attribute]]
        pictures = [pixels(place({4: thing})) for thing in things]
        for (one, first), (other, second) in combinations(zip(things, pictures, strict=True), 2):
            differing = (abs(first - second).max(-1) > 40).sum()
            assert differing >= 10, f"{one} looks like {other}"


def test_a_change_of_background_or_place_shows():
    pictures = [pixels(place({4: MOON}, background)) for background in BACKGROUNDS]
    pictures += [pixels(place({cell: MOON})) for cell in range(len(CELLS)) if cell != 4]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


def test_names_of_things():
    everything = ("size", "colour", "texture")
    assert name_thing(STAR, attributes=everything) == "large red striped star"
    assert name_thing(STAR, attributes=("texture",)) == "striped star"
    assert name_thing(MOON, attributes=()) == "moon"


def test_a_full_description_names_everything():
    scene = place({0: STAR, 7: MOON, 8: replace(STAR, colour="green")}, "beige")
    texts = {describe(scene, random.Random(seed)) for seed in range(30)}
    assert len(texts) > 20
    for text in texts:
        for phrase in ("large red striped star", "small blue moon", "large green striped star"):
            assert text.count(f"a {phrase} ") == 1
        for cell in scene.occupied:
            assert text.count(f"the {CELLS[cell]}") == 1
        assert text.count("background") == text.count("beige") == 1
        assert "solid" not in text


def test_a_partial_description_leaves_words_out_and_says_nothing_wrong():
    scene = place({0: STAR, 7: MOON}, "beige")
    bare = describe(scene, random.Random(0), keep=0)
    assert sorted(set(bare.replace(",", "").split()) - {"and"}) == ["a", "moon", "star"]
    whole = set(describe(scene, random.Random(0)).replace(",", "").split())
    fillers = set("a and at in on the with background".split())
    counts = []
    for seed in range(30):
        said = set(describe(scene, random.Random(seed), keep=0.5).replace(",", "").split())
        assert said <= whole | fillers
        counts.append(len(said))
    assert min(counts) < len(whole) - 3


def test_words_are_those_of_descriptions():
    rng = random.Random(2)
    said = set()
    for _ in range(300):
        one, other = sample_scene(rng, "train"), sample_scene(rng, "train")
        texts = describe(one, rng, keep=0.9), describe_change(one, other, rng, keep=0.9)
        said |= set(" ".join(texts).replace(",", "").split())
    assert said <= words()
    assert words() - said <= {"solid", "an"}


def test_a_change_names_what_differs_and_nothing_else():
    star, moon = Thing("star", "red", "dotted", "small"), Thing("moon", "blue", "striped", "large")
    before = Scene((star, moon, *[None] * 7), "grey")
    after = before.replaced({0: None, 4: replace(star, colour="green")})
    said = {
        tuple(sorted(re.split(", | and ", describe_change(before, after, random.Random(seed)))))
        for seed in range(20)
    }
    ends = ("small red dotted star", "small green dotted star")
    assert all(text[1].startswith(f"no {ends[0]} ") for text in said)
    assert all(text[0].startswith(f"a {ends[1]} ") for text in said)
    assert not any("moon" in part or "grey" in part for text in said for part in text)
    assert describe_change(before, before, random.Random(0)) == ""
