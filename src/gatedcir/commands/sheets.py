"""Sheets of gate maps: what they show, and how they are drawn. `gates` reads the options."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gatedcir.commands.pictures import chosen, picture_of
from gatedcir.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from gatedcir.data.changes import Box, Changes
    from gatedcir.data.triplets import Split
    from gatedcir.evaluation.evaluator import Evaluator
    from gatedcir.evaluation.ranking import Ranking
    from gatedcir.visualize.gate_figure import Direction, Kind, Picture

TOP = 5
"""Retrieved images below the maps."""


@dataclass(frozen=True)
class Asked:
    """One text over one image: a row of a sheet. Pixels are read when they are needed."""

    text: str
    reference: "Callable[[], Tensor]"
    target: "Callable[[], Tensor] | None" = None
    boxes: "Sequence[Box]" = ()
    others: "Callable[[], Sequence[Picture]]" = tuple


class Sheet(NamedTuple):
    """A picture's file and its rows."""

    file: Path
    rows: list[Asked]


def draw(
    evaluator: "Evaluator",
    sheets: Sequence[Sheet],
    *,
    delta: bool,
    change_top: float | None,
    together: Path | None = None,
) -> Iterator[Path]:
    """Draw sheets on one scale, and yield their files.

    Args:
        evaluator: the model, which has a gate.
        sheets: what is drawn.
        delta: whether the change's direction is drawn too.
        change_top: the change at the upper end of the colours. Without it: the largest change of
            all sheets, rounded up.
        together: one file with all rows in a grid, in place of those of the sheets.

    Raises:
        UserError: the direction cannot be drawn. Then no file is written.
    """
    from gatedcir.visualize.gate_figure import Row, save_gate_figure
    from gatedcir.visualize.gate_sheet import save_gate_sheet
    from gatedcir.visualize.maps import rounded_up

    # All maps come before the first picture, because they share one scale.
    maps = [[_maps(evaluator, asked, delta=delta) for asked in sheet.rows] for sheet in sheets]
    changes = [found.change for each in maps for found in each if found.change is not None]
    top = change_top or rounded_up(max((float(each.max()) for each in changes), default=0.0))

    def rows_of(sheet: Sheet, each: Sequence[_Maps]) -> list[Row]:
        return [
            Row(
                text=asked.text,
                reference=picture_of(asked.reference(), evaluator.transform),
                boxes=asked.boxes,
                others=() if together else asked.others(),
                **found._asdict(),
            )
            for asked, found in zip(sheet.rows, each, strict=True)
        ]

    if together:
        both = zip(sheets, maps, strict=True)
        rows = [row for sheet, each in both for row in rows_of(sheet, each)]
        save_gate_sheet(together, rows, change_top=top)
        yield together
        return
    for sheet, each in zip(sheets, maps, strict=True):
        save_gate_figure(sheet.file, rows_of(sheet, each), change_top=top)
        yield sheet.file


def of_queries(
    evaluator: "Evaluator",
    split: "Split",
    known: "Changes | None",
    *,
    num: int,
    file_of: Callable[[str], Path],
) -> Iterator[Sheet]:
    """A sheet for each of some queries: its target, and what it retrieves, below the maps."""
    from gatedcir.evaluation.ranking import rank

    ranking = rank(split, *evaluator.encode(split))
    for query in chosen(len(split.triplets), num):
        file = file_of(split.triplets[query].query_id)
        yield Sheet(file, [_query(evaluator, ranking, query, known)])


def of_files(
    evaluator: "Evaluator", files: Sequence[Path], reference: Path
) -> "Callable[[], Sequence[Picture]]":
    """The pictures of files that a text finds, best first. The reference among them is marked."""
    from gatedcir.visualize.gate_figure import Picture

    def pictures() -> "Iterator[Picture]":
        transform = evaluator.transform
        for place, file in enumerate(files, 1):
            shown = picture_of(transform(transform.open(file)), transform)
            yield Picture(shown, *_labels(place, is_reference=file.samefile(reference)))

    return lambda: list(pictures())


def of_swaps(
    evaluator: "Evaluator",
    split: "Split",
    known: "Changes | None",
    *,
    num: int,
    file_of: Callable[[str], Path],
) -> Iterator[Sheet]:
    """A sheet for each of some images, under two texts that change different objects.

    Raises:
        UserError: no such texts are known.
    """
    if known is None or not known.swaps:
        raise UserError(
            f"no texts that change different objects are known of {split.name}; draw a dataset by "
            "gatedcir synthetic, or leave --swaps out."
        )
    for number in chosen(len(known.swaps), num):
        swap = known.swaps[number]
        reference = _reader(evaluator, split, swap.reference)
        rows = [
            Asked(
                evaluator.benchmark.evaluation_text(captions),
                reference,
                boxes=evaluator.transform.boxes(boxes, known.size),
            )
            for captions, boxes in zip(swap.captions, swap.boxes, strict=True)
        ]
        yield Sheet(file_of(f"{swap.reference}-swap"), rows)


def _query(
    evaluator: "Evaluator", ranking: "Ranking", query: int, known: "Changes | None"
) -> Asked:
    """A query with its target, what it retrieves, and where its text truly changes the image."""
    from gatedcir.visualize.gate_figure import Picture

    split, triplet = ranking.split, ranking.split.triplets[query]
    target = _reader(evaluator, split, triplet.target) if triplet.target else None
    changes = known.queries.get(triplet.query_id, ()) if known is not None else ()
    boxes = [box for change in changes for box in change.boxes]

    def others() -> Iterator[Picture]:
        names = ranking.names(query)
        if target:
            place = names.index(triplet.target) + 1 if triplet.target in names else None
            title = f"found at {place}" if place else f"not in the first {len(names)}"
            found = picture_of(target(), evaluator.transform)
            yield Picture(found, f"target, {title}", "right" if place == 1 else "near")
        for place, name in enumerate(names[:TOP], 1):
            found = picture_of(_reader(evaluator, split, name)(), evaluator.transform)
            is_target, is_reference = name in triplet.targets, name == triplet.reference
            labels = _labels(place, is_target=is_target, is_reference=is_reference)
            yield Picture(found, *labels)

    return Asked(
        evaluator.benchmark.evaluation_text(triplet.captions),
        _reader(evaluator, split, triplet.reference),
        target=target,
        boxes=evaluator.transform.boxes(boxes, known.size) if known is not None else (),
        others=lambda: list(others()),
    )


def _labels(
    place: int, *, is_target: bool = False, is_reference: bool = False
) -> "tuple[str, Kind]":
    """The title of a retrieved image, and its frame."""
    if is_target:
        return f"retrieved {place}", "right" if place == 1 else "near"
    if is_reference:
        return f"retrieved {place}, the reference", "reference"
    return f"retrieved {place}", "other"


def _reader(evaluator: "Evaluator", split: "Split", name: str) -> "Callable[[], Tensor]":
    transform = evaluator.transform
    return lambda: transform(transform.open(split.paths[name]))


class _Maps(NamedTuple):
    """The parts of a row that the model gives."""

    gate: "np.ndarray"
    change: "np.ndarray | None"
    direction: "Direction | None"
    words: list[tuple[str, float]]


def _maps(evaluator: "Evaluator", asked: Asked, *, delta: bool) -> _Maps:
    """What the model does to the image under the text."""
    from gatedcir.visualize.explained import explained

    pixels = asked.reference()
    aux = evaluator.explain(pixels[None], [asked.text])
    found = explained(aux, evaluator.tokenizer.words(asked.text))
    assert found.gate is not None
    direction = None
    if delta:
        one = {name: value[0].float().cpu() for name, value in aux.items() if value.ndim > 1}
        direction = _direction(evaluator, pixels, asked, one)
    return _Maps(found.gate, found.change, direction, found.words)


def _direction(
    evaluator: "Evaluator", pixels: "Tensor", asked: Asked, aux: "dict[str, Tensor]"
) -> "Direction":
    """Where delta points at each cell.

    If the target is known: the cosine with the way from the reference's token to the target's
    token at the same cell. Else the first principal component of delta over the cells.
    """
    from gatedcir.visualize.cells import DEVIATIONS
    from gatedcir.visualize.gate_figure import Direction
    from gatedcir.visualize.maps import cosine_map, feature_map, is_one_vector

    if "delta" not in aux:
        raise UserError("this model's fusion reports no delta; leave --delta out.")
    if is_one_vector(aux["delta"]):
        raise UserError(
            "the delta of this model is one vector for all places of an image, so it has no map; "
            "leave --delta out, or train with --model.gated-fusion.strategy contextual."
        )
    if asked.target is None:
        component = feature_map(aux["delta"]).numpy()
        return Direction(component, "δ, first component\nstandard deviations", DEVIATIONS)
    reference, target = (
        evaluator.fuse(each[None])[1][0].float().cpu() for each in (pixels, asked.target())
    )
    cosines = cosine_map(aux["delta"], target - reference).numpy()
    return Direction(cosines, "δ, cosine with\ntarget − reference", 1.0)
