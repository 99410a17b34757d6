"""Families of garments: queries with one answer each, among near misses.

This module is the entry to synthetic fashion. The modules imported here define garments, their
pictures and their words.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

from gatedcir.synthetic.garment_picture import draw
from gatedcir.synthetic.garment_text import captions, describe, describe_change, words
from gatedcir.synthetic.garment_values import (
    ATTRIBUTES,
    RULE,
    SPLITS,
    Change,
    Garment,
    satisfies,
    split_of,
)

__all__ = [
    "ATTRIBUTES",
    "SPLITS",
    "Change",
    "Family",
    "Garment",
    "Query",
    "answers",
    "captions",
    "describe",
    "describe_change",
    "draw",
    "family",
    "sample",
    "satisfies",
    "split_of",
    "words",
]

_QUERIES = 3
_SINGLE = 0.3  # probability that a family may ask for a single change without need


@dataclass(frozen=True)
class Query:
    """The reference with these changes is `target`. Two captions together ask for them."""

    target: Garment
    captions: tuple[str, str]
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Family:
    """A reference, its queries, and all garments: the reference, the targets and near misses."""

    reference: Garment
    queries: tuple[Query, ...]
    garments: tuple[Garment, ...]


def sample(category: str, split: str, rng: random.Random) -> Garment:
    """A garment drawn evenly from a category's combinations of one split.

    Raises:
        ValueError: on an unknown category or split.
    """
    if category not in ATTRIBUTES:
        raise ValueError(f"no category {category!r}: one of {', '.join(ATTRIBUTES)}")
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: one of {', '.join(SPLITS)}")
    while True:
        values = tuple(rng.choice(choices) for choices in ATTRIBUTES[category].values())
        if split_of(garment := Garment(category, values)) == split:
            return garment


def family(category: str, split: str, rng: random.Random) -> Family:
    """One reference, three queries and eleven garments.

    Three changes of the reference span a cube of eight garments. A query asks for two or three of
    them (sometimes one). The corners next to its target are near misses: a requested change is
    missing, or there is one more change. Three more garments each spoil a target by another value
    of a requested attribute, or by a change outside the cube. Exactly one garment satisfies each
    query. The reference and the targets are of the split's own combinations. The near misses may
    also be of train's.

    Raises:
        ValueError: on an unknown category or split.
    """
    # A held-out split keeps its combinations if two attributes of the rule change together, or
    # none. This is decided once for all attempts. Else families that change a colour would be rare.
    bound = None if split == "train" else rng.choice((0, 2))
    while True:
        reference = sample(category, split, rng)
        cube = _cube(reference, _changes(reference, bound, rng))
        asked = _asked(cube, split, rng)
        if len(asked) < _QUERIES:
            continue
        queries = tuple(
            Query(target, *captions(reference, target, rng))
            for target in (cube[corner] for corner in asked)
        )
        spoilt = [_spoil(reference, query, rng) for query in queries]
        garments = tuple(dict.fromkeys([*cube.values(), *spoilt]))
        if (
            len(garments) == len(cube) + len(spoilt)
            and all(split_of(garment) in (split, "train") for garment in garments)
            and all(_one_answer(reference, query, garments) for query in queries)
        ):
            return Family(reference, queries, garments)


def _changes(reference: Garment, bound: int | None, rng: random.Random) -> dict[str, str]:
    """Three attributes and their new values. `bound` of them, if given, are of the split's rule."""
    if bound is None:
        attributes = rng.sample(reference.attributes, 3)
    else:
        free = [attribute for attribute in reference.attributes if attribute not in RULE]
        attributes = [*rng.sample(RULE, bound), *rng.sample(free, 3 - bound)]
    return {attribute: _other_value(reference, attribute, rng) for attribute in attributes}


def _other_value(reference: Garment, attribute: str, rng: random.Random) -> str:
    choices = ATTRIBUTES[reference.category][attribute]
    return rng.choice([value for value in choices if value != reference[attribute]])


def _cube(reference: Garment, changes: dict[str, str]) -> dict[tuple[str, ...], Garment]:
    """Each subset of the changes, in order of size, and the reference with just these made."""
    corners = [corner for size in range(4) for corner in combinations(changes, size)]
    return {corner: reference.but(**{name: changes[name] for name in corner}) for corner in corners}


def _asked(
    cube: dict[tuple[str, ...], Garment], split: str, rng: random.Random
) -> list[tuple[str, ...]]:
    """Corners of the cube to ask for: two or three changes, or one, rarely or where needed."""
    own = [corner for corner, garment in cube.items() if corner and split_of(garment) == split]
    single = [corner for corner in own if len(corner) == 1]
    several = [corner for corner in own if len(corner) > 1]
    wanted = 1 if single and rng.random() < _SINGLE else 0
    chosen = rng.sample(several, min(len(several), _QUERIES - wanted))
    return chosen + rng.sample(single, min(len(single), _QUERIES - len(chosen)))


def _spoil(reference: Garment, query: Query, rng: random.Random) -> Garment:
    """The query's target with one requested attribute wrong, or one more attribute changed."""
    asked = {change.attribute: change.allowed for change in query.changes}
    wrong = [
        query.target.but(**{attribute: value})
        for attribute, allowed in asked.items()
        for value in ATTRIBUTES[reference.category][attribute]
        if value not in allowed and value != reference[attribute]
    ]
    unasked = [attribute for attribute in reference.attributes if attribute not in asked]
    if wrong and rng.random() < 0.5:
        return rng.choice(wrong)
    attribute = rng.choice(unasked)
    return query.target.but(**{attribute: _other_value(reference, attribute, rng)})


def _one_answer(reference: Garment, query: Query, garments: Sequence[Garment]) -> bool:
    fitting = [each for each in garments if satisfies(reference, query.changes, each)]
    return fitting == [query.target]


def answers(reference: Garment, changes: Sequence[Change]) -> set[Garment]:
    """Every possible garment that satisfies the changes, also those outside the gallery."""
    allowed = {change.attribute: sorted(change.allowed) for change in changes}
    combined = product(*allowed.values())
    return {reference.but(**dict(zip(allowed, values, strict=True))) for values in combined}
