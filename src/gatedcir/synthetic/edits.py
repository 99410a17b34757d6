"""Modifications of scenes: the request, its words, and whether a picture satisfies it."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gatedcir.synthetic.scenes import BACKGROUND_SLOT, CELLS, SHAPES, Scene, Thing, name_thing

_TEMPLATES = {
    "recolour": (
        "make {it} {value}", "change {it} to {value}", "{it} should be {value}",
        "turn {it} {value}", "the same but {it} is {value}", "paint {it} {value}",
        "{it} is {value} now", "i want {it} in {value}",
    ),
    "replace": (
        "replace {it} with a {value}", "change {it} into a {value}", "turn {it} into a {value}",
        "put a {value} in place of {it}", "a {value} instead of {it}",
        "{it} becomes a {value}", "use a {value} where {it} was",
    ),
    "retexture": (
        "make {it} {value}", "{it} should be {value}", "change {it} so that it is {value}",
        "{it} is {value} now", "give me {it} but {value}", "the same with {it} {value}",
    ),
    "large": (
        "make {it} bigger", "enlarge {it}", "{it} should be larger", "a bigger version of {it}",
        "increase the size of {it}", "{it} is large now", "make {it} large",
    ),
    "small": (
        "make {it} smaller", "shrink {it}", "{it} should be smaller", "a smaller version of {it}",
        "reduce the size of {it}", "{it} is small now", "make {it} small",
    ),
    "remove": (
        "remove {it}", "take away {it}", "without {it}", "get rid of {it}", "delete {it}",
        "drop {it}", "{it} is gone", "the same but no longer with {it}",
    ),
    "add": (
        "add a {value} {place}", "put a {value} {place}", "there is also a {value} {place}",
        "place a {value} {place}", "with an extra {value} {place}", "a {value} appears {place}",
    ),
    "add anywhere": (
        "add a {value}", "add a {value} somewhere", "there is also a {value}",
        "with an extra {value}", "put a {value} anywhere", "include a {value} too",
    ),
    "move": (
        "move {it} {place}", "put {it} {place}", "shift {it} {place}", "{it} is {place} now",
        "{it} goes {place}", "{it} should be {place}",
    ),
    "swap": (
        "swap {it} and {other}", "exchange {it} with {other}", "{it} and {other} trade places",
        "switch the places of {it} and {other}", "let {it} and {other} change places",
    ),
    "count": (
        "show {value} instead of {before}", "there should be {value} and not {before}",
        "make it {value}", "{value} rather than {before}", "have {value} in total",
    ),
    "background": (
        "change the background to {value}", "on a {value} background", "put everything on {value}",
        "with a {value} background", "the background is {value} now", "background becomes {value}",
        "make the background {value}",
    ),
}  # fmt: skip
_PLACES = ("to the {}", "in the {}", "at the {}")
_JOINTS = (" and ", ", ", ", and ", " and also ", ", then ")
_NUMBERS = {1: "one", 2: "two", 3: "three"}
_PLURALS = {"cross": "crosses"}


@dataclass(frozen=True)
class Edit:
    """One change asked for.

    The change is about `slots`. In most edits `values` gives the required content of each slot.
    If the request leaves the place open, exactly `copies` of the slots must hold `thing`, and the
    others must be empty.
    """

    kind: str
    slots: tuple[int, ...]
    values: tuple[Thing | str | None, ...] = ()
    thing: Thing | None = None
    copies: int = 0

    def is_fulfilled(self, scene: Scene) -> bool:
        """Whether a scene shows the requested change. Its other content does not matter."""
        found = [scene[slot] for slot in self.slots]
        if not self.copies:
            return found == list(self.values)
        return found.count(self.thing) == self.copies and all(
            thing in (self.thing, None) for thing in found
        )


def broken_parts(reference: Scene, edits: Iterable[Edit], candidate: Scene) -> int:
    """How many parts of a request a candidate breaks. 0 for a picture that satisfies it.

    Each edit is one part. Each thing outside the edits is one part too, and so is the background:
    they must stay as in the reference. The last part is that nothing else was added.
    """
    edits = tuple(edits)
    touched = {slot for edit in edits for slot in edit.slots}
    kept = [slot for slot in (*reference.occupied, BACKGROUND_SLOT) if slot not in touched]
    empty = [slot for slot in reference.free if slot not in touched]
    return (
        sum(not edit.is_fulfilled(candidate) for edit in edits)
        + sum(candidate[slot] != reference[slot] for slot in kept)
        + any(candidate[slot] is not None for slot in empty)
    )


def between(scene: Scene, slots: tuple[int, ...], values: tuple[Thing | str | None, ...]) -> Edit:
    """The edit that gives the slots of a scene other values, with the fitting kind."""
    before = [scene[slot] for slot in slots]
    things = [value for value in values if isinstance(value, Thing)]
    if slots == (BACKGROUND_SLOT,):
        return Edit("background", slots, values)
    if len(slots) > 1:
        if len(set(things)) > 1:
            return Edit("swap", slots, values)
        if before.count(things[0]) == len(things):
            return Edit("move", slots, values)
        return Edit("count", slots, thing=things[0], copies=len(things))
    old, new = before[0], values[0]
    if not isinstance(new, Thing):
        return Edit("remove", slots, values)
    if not isinstance(old, Thing):
        return Edit("add", slots, values)
    changed = [name for name in _KIND_OF if getattr(old, name) != getattr(new, name)]
    return Edit(_KIND_OF[changed[0]] if len(changed) == 1 else "replace", slots, values)


_KIND_OF = {"colour": "recolour", "texture": "retexture", "size": "resize", "shape": "replace"}


def phrase(scene: Scene, edit: Edit, rng: random.Random) -> str:
    """One of many ways to ask for an edit of a scene. It is unambiguous in that scene."""
    said = _details(scene, edit, rng)
    kind = said.pop("kind", edit.kind)
    return rng.choice(_TEMPLATES[kind]).format(**said)


def _details(scene: Scene, edit: Edit, rng: random.Random) -> dict[str, str]:
    """The words for an edit's template, with `kind` if the template is of another kind."""
    place = rng.choice(_PLACES)
    if edit.kind == "background":
        return {"value": str(edit.values[0])}
    if edit.kind == "count":
        assert edit.thing is not None
        before = sum(scene[slot] == edit.thing for slot in edit.slots)
        return {"value": _count_name(edit.thing, edit.copies), "before": _NUMBERS[before]}
    if edit.kind == "add" and edit.copies:
        assert edit.thing is not None
        return {"kind": "add anywhere", "value": _full_name(edit.thing)}
    if edit.kind == "move":
        old = next(slot for slot in edit.slots if scene[slot] is not None)
        new = edit.slots[next(i for i, value in enumerate(edit.values) if value is not None)]
        return {"it": refer(scene, old, rng), "place": place.format(CELLS[new])}
    cell, value = edit.slots[0], edit.values[0]
    if edit.kind == "add":
        assert isinstance(value, Thing)
        return {"value": _full_name(value), "place": place.format(CELLS[cell])}
    said = {"it": refer(scene, cell, rng)}
    if edit.kind == "swap":
        return said | {"other": refer(scene, edit.slots[1], rng)}
    if edit.kind == "remove":
        return said
    assert isinstance(value, Thing)
    if edit.kind == "resize":
        return said | {"kind": value.size}
    if edit.kind == "replace":
        old_thing = _thing(scene, cell)
        only_shape = replace(old_thing, shape=value.shape) == value and rng.random() < 0.5
        return said | {"value": value.shape if only_shape else _full_name(value)}
    return said | {"value": value.colour if edit.kind == "recolour" else value.texture}


def phrase_all(scene: Scene, edits: Iterable[Edit], rng: random.Random) -> str:
    """One sentence that asks for all the edits, in random order."""
    parts = [phrase(scene, edit, rng) for edit in edits]
    rng.shuffle(parts)
    return rng.choice(_JOINTS).join(parts)


def refer(scene: Scene, cell: int, rng: random.Random) -> str:
    """A noun phrase that fits exactly one thing of the scene: by its attributes or its place."""
    thing = _thing(scene, cell)
    options = [(), ("colour",), ("texture",), ("size",), ("colour", "texture"), ("size", "colour")]
    rng.shuffle(options)
    for attributes in sorted(options, key=len):
        if "texture" in attributes and thing.texture == "solid":
            continue
        same = [
            other
            for other in scene.things()
            if other.shape == thing.shape
            and all(getattr(other, name) == getattr(thing, name) for name in attributes)
        ]
        # If the bare shape is enough, it is used half of the time.
        if len(same) == 1 and (attributes or rng.random() < 0.5):
            return "the " + name_thing(thing, attributes=attributes)
    return f"the {thing.shape} {rng.choice(_PLACES[1:]).format(CELLS[cell])}"


def words() -> set[str]:
    """Every word of the templates."""
    texts = [*(text for group in _TEMPLATES.values() for text in group), *_PLACES, *_JOINTS]
    texts += [*_NUMBERS.values(), *_PLURALS.values(), *(shape + "s" for shape in SHAPES)]
    return {word.strip(",") for text in texts for word in text.split() if "{" not in word} - {""}


def _thing(scene: Scene, cell: int) -> Thing:
    thing = scene.cells[cell]
    assert thing is not None
    return thing


def _full_name(thing: Thing) -> str:
    """The thing with all its attributes, because a request for a new thing must name them all."""
    return name_thing(thing, attributes=("size", "colour", "texture"))


def _count_name(thing: Thing, copies: int) -> str:
    """'three large red striped circles'."""
    plural = thing.shape if copies == 1 else _PLURALS.get(thing.shape, thing.shape + "s")
    return f"{_NUMBERS[copies]} {_full_name(thing).removesuffix(thing.shape)}{plural}"
