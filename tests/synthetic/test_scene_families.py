"""Families of scenes: one answer to each query, near misses, no way around either input."""

import random
from collections import Counter
from functools import cache

import pytest

from gatedcir.synthetic import edits as edits_module
from gatedcir.synthetic import scenes as scenes_module
from gatedcir.synthetic.edits import Edit, between, broken_parts
from gatedcir.synthetic.scene_families import (
    MOST_BYSTANDERS,
    NEGATIVES,
    Factor,
    Family,
    Query,
    _make_query,
    drop_ambiguous,
    sample_family,
    sample_near_scenes,
)
from gatedcir.synthetic.scenes import BACKGROUND_SLOT, CELLS, Scene, Thing, allowed_in, split_of

SPLITS = ("train", "val", "test")
KINDS = set(
    "recolour replace retexture resize remove add move swap count background".split()
)  # fmt: skip
STAR = Thing("star", "red", "solid", "large")
MOON = Thing("moon", "blue", "dotted", "small")
HEART = Thing("heart", "green", "striped", "small")


@cache
def families(split: str) -> tuple[Family, ...]:
    return tuple(sample_family(split, random.Random(f"{split}{n}"), queries=15) for n in range(12))


def place(things: dict[int, Thing], background: str = "white") -> Scene:
    return Scene(tuple(things.get(cell) for cell in range(len(CELLS))), background)


def satisfying(query: Query, family: Family, scenes: list[Scene]) -> list[Scene]:
    reference = family.scenes[query.reference]
    return [scene for scene in scenes if broken_parts(reference, query.edits, scene) == 0]


def test_a_family_depends_on_the_generator_alone():
    first, again = (sample_family("val", random.Random(7), queries=10) for _ in range(2))
    assert first == again
    assert first != sample_family("val", random.Random(8), queries=10)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("bystanders", [1, MOST_BYSTANDERS])
def test_bystanders_are_in_every_scene_and_no_request_changes_them(split, bystanders):
    for number in range(6):
        family = sample_family(split, random.Random(number), queries=8, bystanders=bystanders)
        same = [
            cell
            for cell in range(len(CELLS))
            if family.scenes[0][cell] and len({scene[cell] for scene in family.scenes}) == 1
        ]
        assert len(same) == bystanders
        for query in family.queries:
            reference, target = (family.scenes[n] for n in (query.reference, query.target))
            assert all(reference[cell] == target[cell] for cell in same)
            assert [satisfying(query, family, list(family.scenes))] == [[target]]


@pytest.mark.parametrize("split", SPLITS)
def test_a_group_is_a_reference_a_target_and_four_near_misses(split):
    for family in families(split):
        assert len(family.queries) == 15
        assert len({(query.reference, query.target) for query in family.queries}) == 15
        assert len(set(family.scenes)) == len(family.scenes) >= 18
        for query in family.queries:
            reference = family.scenes[query.reference]
            assert 1 <= len(query.edits) <= 2
            assert len(query.negatives) == NEGATIVES == 4
            assert len({query.reference, query.target, *query.negatives}) == 6
            assert broken_parts(reference, query.edits, family.scenes[query.target]) == 0
            assert broken_parts(reference, query.edits, reference) == len(query.edits)
            for number in query.negatives:
                assert broken_parts(reference, query.edits, family.scenes[number]) == 1


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_show_no_combination_of_another_held_out_split(split):
    for family in families(split):
        assert all(allowed_in(thing, split) for scene in family.scenes for thing in scene.things())
        for query in family.queries:
            ends = family.scenes[query.reference], family.scenes[query.target]
            assert any(split_of(thing) == split for end in ends for thing in end.things())


@pytest.mark.parametrize("split", SPLITS)
def test_exactly_one_scene_of_all_families_satisfies_a_query(split):
    scenes = [scene for family in families(split) for scene in family.scenes]
    kept = drop_ambiguous(list(families(split)))
    assert [family.scenes for family in kept] == [family.scenes for family in families(split)]
    for before, after in zip(families(split), kept, strict=True):
        answers = {query: satisfying(query, before, scenes) for query in before.queries}
        assert after.queries == tuple(q for q in before.queries if len(answers[q]) == 1)
        assert all(answers[q] == [after.scenes[q.target]] for q in after.queries)
    assert sum(len(family.queries) for family in kept) > 140


def hand_made(scenes: list[Scene], edit: Edit) -> Family:
    return Family(tuple(scenes), (Query(0, 1, (edit,), "", ()),))


def test_a_query_with_an_answer_in_another_family_is_dropped():
    reference, target = place({0: STAR, 4: MOON}), place({0: STAR})
    removal = hand_made([reference, target], between(reference, (4,), (None,)))
    other = place({2: HEART}, "mint")
    repainting = hand_made(
        [other, place({2: HEART}, "sky"), target], between(other, (BACKGROUND_SLOT,), ("sky",))
    )
    near = hand_made(
        [other, place({2: HEART}, "sky"), place({0: STAR}, "sky")], repainting.queries[0].edits[0]
    )
    assert drop_ambiguous([removal, near]) == [removal, near]
    assert drop_ambiguous([removal, repainting]) == [Family(removal.scenes, ()), repainting]
    assert drop_ambiguous([removal, removal]) == [Family(removal.scenes, ())] * 2


def test_a_query_with_an_open_place_is_dropped_when_another_place_is_shown():
    reference = place({0: STAR})
    anywhere = Edit("add", (3, 5), thing=MOON, copies=1)
    adding = hand_made([reference, place({0: STAR, 3: MOON})], anywhere)
    elsewhere = Family((place({0: STAR, 5: MOON}),), ())
    outside = Family((place({0: STAR, 8: MOON}), place({0: STAR, 3: MOON, 5: MOON})), ())
    assert drop_ambiguous([adding, outside]) == [adding, outside]
    assert drop_ambiguous([adding, elsewhere])[0].queries == ()


def hit_rate(scores: list[float], target: int) -> float:
    """The chance that the target comes first when ties fall at random."""
    best = max(scores)
    return (scores[target] == best) / scores.count(best)


@pytest.mark.parametrize("split", ["val", "test"])
def test_neither_the_text_alone_nor_the_picture_alone_finds_the_target(split):
    # All queries of a family weigh the same, so the mean over more families is the steadier one.
    drawn = [sample_family(split, random.Random(n), queries=15) for n in range(12)]
    gallery = [scene for family in drawn for scene in family.scenes]
    by_text, by_image, by_both, offset = [], [], [], 0
    for family in drawn:
        for query in family.queries:
            reference = family.scenes[query.reference]
            position, removed = offset + query.target, offset + query.reference
            fulfilled = [float(sum(e.is_fulfilled(s) for e in query.edits)) for s in gallery]
            alike = [float(sum(s[k] == reference[k] for k in range(10))) for s in gallery]
            fulfilled[removed] = alike[removed] = -1
            by_text.append(hit_rate(fulfilled, position))
            by_image.append(hit_rate(alike, position))
            both = [f * 100 + a for f, a in zip(fulfilled, alike, strict=True)]
            by_both.append(hit_rate(both, position))
        offset += len(family.scenes)
    count = len(by_text)
    assert count == 180
    # This text oracle knows which thing "the star" is, which takes the picture to know.
    assert 0 < sum(by_text) / count < 0.3
    assert 0 < sum(by_image) / count < 0.12
    assert sum(by_both) / count > 0.9  # the oracles themselves are able


def test_every_kind_is_asked_for_in_words_that_are_listed():
    drawn = [query for split in SPLITS for family in families(split) for query in family.queries]
    kinds = Counter(edit.kind for query in drawn for edit in query.edits)
    assert set(kinds) == KINDS
    assert min(kinds.values()) >= 0.02 * kinds.total()
    additions = {bool(e.copies) for q in drawn for e in q.edits if e.kind == "add"}
    assert additions == {True, False}
    known = scenes_module.words() | edits_module.words()
    assert {word for q in drawn for word in q.caption.replace(",", "").split()} <= known
    assert len({query.caption for query in drawn}) > 0.9 * len(drawn)


def test_a_count_is_not_asked_for_beside_another_such_thing():
    """'Two stars instead of one' would be wrong in a scene with one more star that stays."""
    factors = [
        Factor((0, 1, 2), ((STAR, None, None), (STAR, STAR, None), (STAR, STAR, STAR))),
        Factor((4,), ((MOON,), (STAR,), (HEART,))),
        Factor((BACKGROUND_SLOT,), (("white",), ("mint",), ("sky",))),
    ]
    points = [(n, other, back) for n in range(3) for other in range(3) for back in range(3)]
    scenes = tuple(
        place({**dict.fromkeys(range(n + 1), STAR), 4: (MOON, STAR, HEART)[other]}).replaced(
            {BACKGROUND_SLOT: ("white", "mint", "sky")[back]}
        )
        for n, other, back in points
    )

    def ask(start: tuple[int, int, int], end: tuple[int, int, int]) -> Query | None:
        pair = points.index(start), points.index(end)
        asked = [n for n in range(3) if start[n] != end[n]]
        return _make_query(factors, scenes, pair, asked, random.Random(0))

    sound = ask((0, 0, 0), (1, 0, 0))
    assert sound is not None and sound.edits[0].copies == 2
    assert ask((0, 1, 0), (1, 1, 0)) is None  # a star stays in the centre
    assert ask((0, 0, 0), (1, 1, 0)) is None  # a star appears in the centre
    assert ask((0, 1, 0), (0, 1, 1)) is not None  # nothing is counted


def test_one_thing_is_not_added_twice_anywhere():
    """One moon in a cell that both additions leave open would be the answer to both."""
    states = [(None, MOON, HEART), (None, MOON, HEART), (None, STAR, HEART)]
    cells = (0, 4, 8)
    factors = [
        Factor((cell,), tuple((thing,) for thing in things))
        for cell, things in zip(cells, states, strict=True)
    ]
    points = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)]
    scenes = tuple(
        place(
            {6: STAR}
            | {c: things[n] for c, things, n in zip(cells, states, point, strict=True) if n}
        )
        for point in points
    )

    def ask(end: tuple[int, int, int], seed: int) -> Query | None:
        pair = points.index((0, 0, 0)), points.index(end)
        return _make_query(factors, scenes, pair, [0, 1], random.Random(seed))

    def most_open(end: tuple[int, int, int]) -> int:
        drawn = [ask(end, seed) for seed in range(100)]
        return max(sum(edit.copies for edit in query.edits) for query in drawn if query)

    assert most_open((1, 1, 0)) == 1
    assert most_open((1, 2, 0)) == 2


def test_near_scenes_are_different_scenes_of_the_split():
    rng = random.Random(5)
    for split in SPLITS:
        scenes = sample_near_scenes(split, rng, 12)
        assert len(set(scenes)) == 12
        assert all(allowed_in(thing, split) for scene in scenes for thing in scene.things())
        gaps = [sum(scenes[0][k] != other[k] for k in range(10)) for other in scenes[1:]]
        assert max(gaps) <= 8  # three factors: at most two of them with several slots
