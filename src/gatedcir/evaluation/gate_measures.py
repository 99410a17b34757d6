"""What a gate looks at, and what it is worth: a model and splits -> figures with intervals.

Shapes: M queries, R references, T texts, P cells.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gatedcir.data.changes import ANYWHERE, BACKGROUND, Box, Change, Changes, Swap
from gatedcir.data.triplets import Split
from gatedcir.evaluation.evaluator import Evaluator
from gatedcir.evaluation.gate_maps import lost_maps, maps_of
from gatedcir.evaluation.interventions import CLOSED, OPEN, QUARTER, rank_closed, recall_estimates
from gatedcir.evaluation.localisation import (
    Floats,
    Truth,
    auc,
    mass_inside,
    pointing,
    spread,
    swapped,
    truth_of,
)
from gatedcir.evaluation.statistics import Estimate, estimate, estimate_share

RESAMPLES = 999  # for means over thousands of queries
SPREAD = 24  # references, and texts, whose maps are compared
IN_TRAINING = 256  # queries that a validation during training looks at
_PARTS = {"image": "image_place_share", "level": "text_level_share", "place": "text_place_share"}
Values = dict[str, list[float]]
Entry = dict[str, Any]
"""A figure as JSON has it: `value`, `interval` (low and high) and `count`. None where unknown."""


def measure_gate(
    evaluator: Evaluator,
    splits: Sequence[Split],
    known: Mapping[str, Changes],
    boxes: Mapping[str, Mapping[str, Sequence[Box]]],
) -> dict[str, Any]:
    """All figures of a model with a gate.

    Args:
        evaluator: of the model.
        splits: queries with published targets, and their galleries.
        known: what truly changes, by the name of a split. A split without is left out.
        boxes: places of the model's square that a user named, by split and query.
    """
    values: Values = defaultdict(list)
    kinds: dict[str, Values] = {}
    spreads: dict[str, list[Any]] = {"": [], "change_": []}
    with evaluator.measuring():
        for split in splits:
            maps = split_maps(evaluator, split, lost=True)
            for number, triplet in enumerate(split.triplets):
                each = {name: found[number] for name, found in maps.items()}
                _add(values, _against_lost(each))
                places = boxes.get(split.name, {}).get(triplet.query_id, ())
                _add(values, _inside(each, places))
            if split.name in known:
                localise(evaluator, split, known[split.name], maps, values)
                localise_kinds(evaluator, split, known[split.name], maps, kinds)
                _add_swaps(evaluator, known[split.name], values)
            for prefix, found in zip(spreads, _squares(evaluator, split), strict=True):
                spreads[prefix].append(spread(found))
        recall = recall_estimates(evaluator.benchmark, rank_closed(evaluator, list(splits)))
    report: dict[str, Any] = {name: _entry(values[name]) for name in MEASURES}
    for prefix, parts in spreads.items():
        wholes = [whole for part in parts for whole in part.total.tolist()]
        for part_name, name in _PARTS.items():
            some = [square for part in parts for square in getattr(part, part_name).tolist()]
            share = estimate_share(some, wholes) if sum(wholes) > 0 else None
            report[prefix + name] = entry_of(share)
    return {
        **report,
        "recall": recall[OPEN],
        "recall_without_gate": recall["everywhere"],
        "interventions": {name: recall[name] for name in CLOSED},
        "kinds": {
            kind: {name: _entry(own[name]) for name in BY_KIND} for kind, own in kinds.items()
        },
        "headline": evaluator.benchmark.headline,
    }


_MAPS = ("gate", "change", "lost")
BY_KIND = tuple(f"{name}_{what}" for name in _MAPS for what in ("auc", "auc_within", "pointing"))
MEASURES = (
    *BY_KIND,
    *("gate_auc_lost", "change_auc_lost"),
    *("text_swap", "text_turned", "change_text_swap", "change_text_turned"),
    *("gate_in_boxes", "change_in_boxes", "area_of_boxes"),
)
"""Figures that are means over queries, or over pairs of texts."""


def in_training(
    evaluator: Evaluator, splits: Sequence[Split], known: Mapping[str, Changes]
) -> dict[str, float]:
    """The mean figures that a validation shows, of the first queries that are known.

    Nothing where nothing is known, or where the model has no gate.
    """
    values: Values = defaultdict(list)
    if not evaluator.has_gate:
        return {}
    with evaluator.measuring():
        for split in splits:
            if split.name in known:
                part = replace(split, triplets=split.triplets[: IN_TRAINING // len(splits)])
                maps = split_maps(evaluator, part, lost=False)
                localise(evaluator, part, known[split.name], maps, values)
    names = ("gate_auc_within", "change_auc_within")
    return {name: float(np.mean(values[name])) for name in names if values[name]}


def split_maps(evaluator: Evaluator, split: Split, *, lost: bool) -> dict[str, Floats]:
    """Maps [M, P] of all queries by their names. `lost` adds the one that needs no labels."""
    references = [triplet.reference for triplet in split.triplets]
    maps = maps_of(evaluator, references, _texts(evaluator, split))._asdict()
    if lost:
        targets = [triplet.targets[0] for triplet in split.triplets]
        maps["lost"] = lost_maps(evaluator, references, targets)
    return maps


def localise(
    evaluator: Evaluator,
    split: Split,
    known: Changes,
    maps: Mapping[str, Floats],
    values: Values,
) -> None:
    """Add how well each map finds what truly changes.

    Queries count that change nothing but things, and that name their places.
    """
    for changes, objects, each in _known(evaluator, split, known, maps):
        if not any(change.kind in (BACKGROUND, ANYWHERE) for change in changes):
            _add(values, _found(each, truth_of(changes, objects, _side(each))))


def localise_kinds(
    evaluator: Evaluator,
    split: Split,
    known: Changes,
    maps: Mapping[str, Floats],
    kinds: dict[str, Values],
) -> None:
    """The same for each kind of change. Every change of every query counts, by itself."""
    for changes, objects, each in _known(evaluator, split, known, maps):
        for place, change in enumerate(changes):
            others = (*changes[:place], *changes[place + 1 :])
            truth = truth_of([change], objects, _side(each), others=others)
            _add(kinds.setdefault(change.kind, defaultdict(list)), _found(each, truth))


def _known(
    evaluator: Evaluator, split: Split, known: Changes, maps: Mapping[str, Floats]
) -> Iterator[tuple[list[Change], list[Box], dict[str, Floats]]]:
    """The changes of each query, the objects of its reference, and its maps [P] by name.

    Boxes are in the square that the model sees.
    """
    place = evaluator.transform.boxes
    for number, triplet in enumerate(split.triplets):
        changes = [
            Change(change.kind, tuple(place(change.boxes, known.size)))
            for change in known.queries.get(triplet.query_id, ())
        ]
        if changes:
            objects = place(known.objects.get(triplet.reference, ()), known.size)
            yield changes, objects, {name: found[number] for name, found in maps.items()}


def _side(maps: Mapping[str, Floats]) -> int:
    """How many cells the maps' grid has in each direction."""
    return round(len(maps["gate"]) ** 0.5)


def entry_of(found: Estimate | None) -> Entry:
    """An estimate as JSON has it."""
    if found is None:
        return {"value": None, "interval": None, "count": 0}
    interval = None if found.low is None else [found.low, found.high]
    return {"value": found.mean, "interval": interval, "count": found.count}


def _entry(values: list[float]) -> Entry:
    return entry_of(estimate(values, resamples=RESAMPLES) if values else None)


def _add(values: Values, found: Mapping[str, float | None]) -> None:
    for name, value in found.items():
        if value is not None:
            values[name].append(value)


def _found(maps: Mapping[str, Floats], truth: Truth) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, values in maps.items():
        found[f"{name}_auc"] = auc(values, truth)
        found[f"{name}_auc_within"] = auc(values, truth.within)
        found[f"{name}_pointing"] = pointing(values, truth)
    return found


def _against_lost(maps: Mapping[str, Floats]) -> dict[str, float | None]:
    """The maps against the quarter of the cells that survive least in the target."""
    lost = maps["lost"]
    right = lost >= np.sort(lost)[-(len(lost) // QUARTER)]
    truth = Truth(right, ~right, right)
    return {f"{name}_auc_lost": auc(maps[name], truth) for name in ("gate", "change")}


def _inside(maps: Mapping[str, Floats], boxes: Sequence[Box]) -> dict[str, float | None]:
    if not boxes:
        return {}
    found = {f"{name}_in_boxes": mass_inside(maps[name], boxes) for name in ("gate", "change")}
    return {**found, "area_of_boxes": mass_inside(np.ones_like(maps["gate"]), boxes)}


def _add_swaps(evaluator: Evaluator, known: Changes, values: Values) -> None:
    if not known.swaps:
        return
    asked = [(swap, captions) for swap in known.swaps for captions in swap.captions]
    maps = maps_of(
        evaluator,
        [swap.reference for swap, _ in asked],
        [evaluator.benchmark.evaluation_text(captions) for _, captions in asked],
    )
    for prefix, found in (("", maps.gate), ("change_", maps.change)):
        for swap, here, there in zip(known.swaps, found[::2], found[1::2], strict=True):
            result = swapped(here, there, _boxes_of(evaluator, swap, known.size))
            if result is not None:
                values[f"{prefix}text_swap"].append(result.above)
                values[f"{prefix}text_turned"].append(result.turned)


def _boxes_of(
    evaluator: Evaluator, swap: Swap, size: tuple[int, int]
) -> tuple[list[Box], list[Box]]:
    one, other = (evaluator.transform.boxes(boxes, size) for boxes in swap.boxes)
    return one, other


def _squares(evaluator: Evaluator, split: Split) -> list[Floats]:
    """Gate and change maps [R, T, P] of some references under the texts of them all."""
    first = {triplet.reference: triplet for triplet in split.triplets}
    places = np.linspace(0, len(first) - 1, min(len(first), SPREAD)).astype(int)
    chosen = [list(first.values())[place] for place in places]
    texts = [evaluator.benchmark.evaluation_text(triplet.captions) for triplet in chosen]
    references = [triplet.reference for triplet in chosen for _ in texts]
    maps = maps_of(evaluator, references, texts * len(chosen))
    return [found.reshape(len(chosen), len(texts), -1) for found in maps]


def _texts(evaluator: Evaluator, split: Split) -> list[str]:
    return [evaluator.benchmark.evaluation_text(triplet.captions) for triplet in split.triplets]
