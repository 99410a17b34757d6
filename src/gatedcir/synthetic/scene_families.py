"""Families of near-identical scenes, so that a search needs both the picture and the text.

A family is the full grid of a scene's factors (`Factor`): parts that may take two or three states
each, independently of one another. A request leads from one point of the grid to another that
differs in one or two factors. The text alone then fits every point with the requested states, for
all values of the other factors. The picture alone fits all the reference's neighbours. Every
neighbour of the target breaks exactly one part of the request. These are the hard negatives.
"""

import itertools
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

from gatedcir.synthetic.edits import Edit, between, broken_parts, phrase_all
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
    sample_thing,
    split_of,
)

FACTORS = 3
NEGATIVES = 4
MOST_BYSTANDERS = 4  # a request's own things take up to five of the nine cells
_ATTRIBUTES = {"colour": tuple(COLOURS), "shape": SHAPES, "texture": TEXTURES, "size": SIZES}

Values = tuple[Thing | str | None, ...]
Inventory = tuple[str, frozenset[tuple[Thing, int]]]  # background; things and how often


@dataclass(frozen=True)
class Factor:
    """Slots and the states that they may take together."""

    slots: tuple[int, ...]
    states: tuple[Values, ...]


@dataclass(frozen=True)
class Query:
    """One request: indices into the family's scenes, the wish and its words."""

    reference: int
    target: int
    edits: tuple[Edit, ...]
    caption: str
    negatives: tuple[int, ...]  # NEGATIVES scenes, each breaking exactly one part of the request


@dataclass(frozen=True)
class Family:
    """All scenes of a grid and some requests among them."""

    scenes: tuple[Scene, ...]
    queries: tuple[Query, ...]


def sample_family(split: str, rng: random.Random, *, queries: int, bystanders: int = 0) -> Family:
    """A random family for train, val or test with that many distinct (reference, target) pairs.

    Every query of val and test shows a combination that belongs to the split alone. All scenes of
    the family show the same `bystanders` too, up to four things that no request changes.
    """
    factors, grid, scenes = _sample_grid(split, rng, bystanders)
    index = {point: number for number, point in enumerate(grid)}
    found: dict[tuple[int, int], Query] = {}
    while len(found) < queries:
        start = rng.choice(grid)
        # After a single change, the target is one of the reference's six nearest scenes. After a
        # compound one, it is one of three that fit the text. With some of each, both inputs count.
        asked = rng.sample(range(FACTORS), rng.choice((1, 2)))
        end = list(start)
        for number in asked:
            others = [s for s in range(len(factors[number].states)) if s != start[number]]
            end[number] = rng.choice(others)
        pair = index[start], index[tuple(end)]
        things = [thing for number in pair for thing in scenes[number].things()]
        if pair in found or not any(split_of(thing) == split for thing in things):
            continue
        query = _make_query(factors, scenes, pair, asked, rng)
        if query is not None:
            found[pair] = query
    return Family(scenes, tuple(found.values()))


def sample_near_scenes(split: str, rng: random.Random, count: int) -> list[Scene]:
    """Different scenes of one grid, for contrastive training against near misses."""
    *_, scenes = _sample_grid(split, rng)
    return rng.sample(scenes, count)


def _sample_grid(
    split: str, rng: random.Random, bystanders: int = 0
) -> tuple[list[Factor], list[tuple[int, ...]], tuple[Scene, ...]]:
    """Factors, all points of their grid, and the scenes there, all different."""
    while True:
        factors = _sample_factors(split, rng, bystanders)
        grid = list(itertools.product(*(range(len(factor.states)) for factor in factors)))
        scenes = tuple(_scene_at(factors, point) for point in grid)
        if len(set(scenes)) == len(scenes):
            return factors, grid, scenes


def _sample_factors(split: str, rng: random.Random, bystanders: int) -> list[Factor]:
    """Three factors on disjoint slots. With the background's and the bystanders', which have one
    state each, they fill a whole scene.
    """
    cells = rng.sample(range(len(CELLS)), len(CELLS))
    backgrounds = tuple((name,) for name in rng.sample(list(BACKGROUNDS), 3))
    # If the background is no factor, it has a single state and no request changes it.
    factors = [Factor((BACKGROUND_SLOT,), backgrounds if rng.random() < 0.6 else backgrounds[:1])]
    if rng.random() < 0.7:
        factors.append(_sample_layout(split, cells, rng))
    while sum(len(factor.states) > 1 for factor in factors) < FACTORS:
        states = _thing_states(split, rng)
        factors.append(Factor((cells.pop(),), tuple((state,) for state in states)))
    for _ in range(bystanders):
        factors.append(Factor((cells.pop(),), ((sample_thing(rng, split),),)))
    return sorted(factors, key=lambda factor: len(factor.states) == 1)


def _sample_layout(split: str, cells: list[int], rng: random.Random) -> Factor:
    """A thing that moves or multiplies, or two that swap. It removes its cells from the list."""
    thing, other = sample_thing(rng, split, held_out=True), sample_thing(rng, split)
    one, two, three = cells.pop(), cells.pop(), cells.pop()
    kind = rng.choice(("move", "count", "swap"))
    if kind == "move":
        states: tuple[Values, ...] = ((thing, None, None), (None, thing, None), (None, None, thing))
        return Factor((one, two, three), states)
    if kind == "count" or thing == other:
        states = ((thing, None, None), (thing, thing, None), (thing, thing, thing))
        return Factor((one, two, three), states)
    cells.append(three)
    return Factor((one, two), ((thing, other), (other, thing)))


def _thing_states(split: str, rng: random.Random) -> list[Thing | None]:
    """A thing and two other states of its cell: changed, replaced or absent."""
    states: list[Thing | None] = [sample_thing(rng, split, held_out=True)]
    while len(states) < 3:
        base = states[0]
        assert base is not None
        draw = rng.random()
        state: Thing | None
        if draw < 0.2:
            state = None
        elif draw < 0.35:
            state = sample_thing(rng, split)
        else:
            attribute = rng.choice(tuple(_ATTRIBUTES))
            others = [v for v in _ATTRIBUTES[attribute] if v != getattr(base, attribute)]
            state = replace(base, **{attribute: rng.choice(others)})
            if not allowed_in(state, split):
                continue
        if state not in states:
            states.append(state)
    return states


def _scene_at(factors: list[Factor], point: tuple[int, ...]) -> Scene:
    """The scene at one point of the grid."""
    empty = Scene((None,) * len(CELLS), "")
    values: dict[int, Thing | str | None] = {}
    for factor, state in zip(factors, point, strict=True):
        values.update(zip(factor.slots, factor.states[state], strict=True))
    return empty.replaced(values)


def _make_query(
    factors: list[Factor],
    scenes: tuple[Scene, ...],
    pair: tuple[int, int],
    asked: list[int],
    rng: random.Random,
) -> Query | None:
    """The request that leads from one scene of a family to another. None if it is unsuitable."""
    reference, target = (scenes[number] for number in pair)
    edits = [
        between(reference, slots, tuple(target[slot] for slot in slots))
        for slots in (factors[number].slots for number in asked)
    ]
    if not target.occupied:
        return None
    edits = [_loosen(reference, edit, edits, rng) for edit in edits]
    open_things = [edit.thing for edit in edits if edit.copies]
    if len(set(open_things)) < len(open_things):
        return None  # both leave the place open, so one thing would satisfy both
    if any(_is_miscounted(edit, scene) for edit in edits for scene in (reference, target)):
        return None
    broken = [broken_parts(reference, edits, scene) for scene in scenes]
    near = [n for n, count in enumerate(broken) if count == 1 and n != pair[0]]
    if broken.count(0) != 1 or len(near) < NEGATIVES:
        return None
    return Query(
        reference=pair[0],
        target=pair[1],
        edits=tuple(edits),
        caption=phrase_all(reference, edits, rng),
        negatives=tuple(sorted(rng.sample(near, NEGATIVES))),
    )


def _is_miscounted(edit: Edit, scene: Scene) -> bool:
    """Whether a scene shows a counted thing elsewhere too, so that the stated number is wrong."""
    counted = sum(scene[slot] == edit.thing for slot in edit.slots)
    return edit.kind == "count" and scene.cells.count(edit.thing) != counted


def _loosen(reference: Scene, edit: Edit, edits: list[Edit], rng: random.Random) -> Edit:
    """The edit as its words state it. Counts, and some additions, leave the place open."""
    loose = edit.kind == "count" or (edit.kind == "add" and rng.random() < 0.3)
    elsewhere = {slot for other in edits if other is not edit for slot in other.slots}
    if not loose:
        return edit
    slots = dict.fromkeys((*edit.slots, *(s for s in reference.free if s not in elsewhere)))
    if edit.kind == "count":
        return replace(edit, slots=tuple(slots))
    thing = edit.values[0]
    assert isinstance(thing, Thing)
    return Edit("add", tuple(slots), thing=thing, copies=1)


def drop_ambiguous(families: list[Family]) -> list[Family]:
    """The families without the queries that a scene of another family satisfies too.

    After this, exactly one scene of all families satisfies each query.
    """
    alike: dict[Inventory, list[tuple[int, Scene]]] = defaultdict(list)
    for owner, family in enumerate(families):
        for scene in family.scenes:
            alike[_inventory(scene)].append((owner, scene))

    def is_answered_by_others(owner: int, query: Query) -> bool:
        reference, target = (families[owner].scenes[n] for n in (query.reference, query.target))
        # A request leaves only places open, so all scenes that satisfy it show the same things.
        return any(
            other != owner and broken_parts(reference, query.edits, scene) == 0
            for other, scene in alike[_inventory(target)]
        )

    return [
        replace(
            family,
            queries=tuple(q for q in family.queries if not is_answered_by_others(owner, q)),
        )
        for owner, family in enumerate(families)
    ]


def _inventory(scene: Scene) -> Inventory:
    """The content of a scene without places: its background, and the count of each thing."""
    return scene.background, frozenset(Counter(scene.things()).items())
