"""Draw where the text opens the gate, for one image and texts or for queries of a dataset."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gatedcir.commands import pictures
from gatedcir.commands.main import COMMANDS
from gatedcir.commands.pictures import check, chosen, file_of, open_one, picture_of
from gatedcir.errors import UserError
from gatedcir.options.parsing import parse

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from gatedcir.data.changes import Box, Changes
    from gatedcir.data.triplets import Split
    from gatedcir.evaluation.evaluator import Evaluator
    from gatedcir.evaluation.ranking import Ranking
    from gatedcir.visualize.gate_figure import Direction, Picture

_TOP = 5
_DEVIATIONS = 3.0  # at the ends of the colours of a principal component


@dataclass(frozen=True)
class Options(pictures.Options):
    """Which model, which queries, and what is drawn."""

    swaps: bool = False
    """Of synthetic data: draw images under two texts that change different objects, in place of
    queries."""
    delta: bool = False
    """Also draw the direction of the change at each cell."""
    change_scale: float | None = None
    """The change at the upper end of the colours. Without it: the largest change of all pictures
    that the command draws, rounded up. Give it to compare pictures of two commands."""


@dataclass(frozen=True)
class _Asked:
    """One text over one image. Pixels are read when they are needed."""

    text: str
    reference: "Callable[[], Tensor]"
    target: "Callable[[], Tensor] | None" = None
    boxes: "Sequence[Box]" = ()
    others: "Callable[[], Sequence[Picture]]" = tuple


_Sheet = tuple[Path, list[_Asked]]  # a picture's file and its rows


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the pictures and print their files."""
    options = parse(Options, argv, description=COMMANDS["gates"])
    check(options, needs_text=True)
    if options.swaps and options.image is not None:
        raise UserError("--swaps takes its images from a dataset; give --dataset, not --image.")
    if options.change_scale is not None and not options.change_scale > 0:
        raise UserError(f"--change-scale {options.change_scale} is no scale; give more than 0.")
    evaluator, sheets = _of_split(options) if options.image is None else _of_image(options)
    from gatedcir.visualize.gate_figure import Row, save_gate_figure
    from gatedcir.visualize.maps import rounded_up

    # All maps come before the first picture, because they share one scale.
    maps = {file: [_maps(evaluator, one, options) for one in asked] for file, asked in sheets}
    changes = [found.change for each in maps.values() for found in each]
    most = max((float(change.max()) for change in changes if change is not None), default=0.0)
    for file, asked in sheets:
        rows = [
            Row(
                text=one.text,
                reference=picture_of(one.reference(), evaluator.transform),
                boxes=one.boxes,
                others=one.others(),
                **found._asdict(),
            )
            for one, found in zip(asked, maps[file], strict=True)
        ]
        save_gate_figure(file, rows, change_top=options.change_scale or rounded_up(most))
        print(file)


def _of_image(options: Options) -> tuple["Evaluator", list[_Sheet]]:
    """One sheet, a row for each text."""
    assert options.image is not None
    evaluator, pixels = open_one(options)
    if not evaluator.has_gate:
        raise _no_gate()
    file = options.output / f"{options.image.stem}-gate.{options.format}"
    return evaluator, [(file, [_Asked(text, lambda: pixels) for text in options.text])]


def _of_split(options: Options) -> tuple["Evaluator", list[_Sheet]]:
    """A sheet for each query, or for each pair of texts over one image."""
    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.data.changes import read_changes
    from gatedcir.evaluation.ranking import rank

    evaluator, splits = open_evaluator(
        options.model_path, options.data, options.split, device=options.device
    )
    if not evaluator.has_gate:
        raise _no_gate()
    sheets: list[_Sheet] = []
    for split in splits:
        print(f"{split.name}: {split.protocol}")
        known = read_changes(options.data.folder, split.name)
        if options.swaps:
            sheets += _swaps(options, evaluator, split, known)
            continue
        ranking = rank(split, *evaluator.encode(split))
        for query in chosen(len(split.triplets), options.num):
            file = file_of(options, split.name, split.triplets[query].query_id)
            sheets.append((file, [_query(evaluator, ranking, query, known)]))
    return evaluator, sheets


def _swaps(
    options: Options, evaluator: "Evaluator", split: "Split", known: "Changes | None"
) -> Iterator[_Sheet]:
    """Images with two texts that change different objects."""
    if known is None or not known.swaps:
        raise UserError(
            f"no texts that change different objects are known of {split.name}; draw a dataset by "
            "gatedcir synthetic, or leave --swaps out."
        )
    for number in chosen(len(known.swaps), options.num):
        swap = known.swaps[number]
        reference = _reader(evaluator, split, swap.reference)
        yield (
            file_of(options, split.name, swap.reference, "-swap"),
            [
                _Asked(
                    evaluator.benchmark.evaluation_text(captions),
                    reference,
                    boxes=evaluator.transform.boxes(boxes, known.size),
                )
                for captions, boxes in zip(swap.captions, swap.boxes, strict=True)
            ],
        )


def _query(
    evaluator: "Evaluator", ranking: "Ranking", query: int, known: "Changes | None"
) -> _Asked:
    """A query with its target, what it retrieves, and where its text truly changes the image."""
    from gatedcir.visualize.gate_figure import Picture

    split, triplet = ranking.split, ranking.split.triplets[query]
    target = triplet.target and _reader(evaluator, split, triplet.target)
    changes = known.queries.get(triplet.query_id, ()) if known is not None else ()
    boxes = [box for change in changes for box in change.boxes]

    def others() -> Iterator[Picture]:
        names = ranking.names(query)
        if target:
            place = names.index(triplet.target) + 1 if triplet.target in names else None
            title = f"found at {place}" if place else f"not in the first {len(names)}"
            found = picture_of(target(), evaluator.transform)
            yield Picture(found, f"target, {title}", right=True)
        for place, name in enumerate(names[:_TOP], 1):
            found = picture_of(_reader(evaluator, split, name)(), evaluator.transform)
            yield Picture(found, f"retrieved {place}", right=name in triplet.targets)

    return _Asked(
        evaluator.benchmark.evaluation_text(triplet.captions),
        _reader(evaluator, split, triplet.reference),
        target=target or None,
        boxes=evaluator.transform.boxes(boxes, known.size) if known is not None else (),
        others=lambda: list(others()),
    )


def _reader(evaluator: "Evaluator", split: "Split", name: str) -> "Callable[[], Tensor]":
    transform = evaluator.transform
    return lambda: transform(transform.open(split.paths[name]))


def _no_gate() -> UserError:
    from gatedcir.models.gated_fusion.strategies import with_a_gate

    *first, last = with_a_gate()
    return UserError(
        f"this model has no gate; train with --model.gated-fusion.strategy {', '.join(first)} or "
        f"{last}."
    )


class _Maps(NamedTuple):
    """The parts of a row that the model gives."""

    gate: "np.ndarray"
    change: "np.ndarray | None"
    direction: "Direction | None"
    words: list[tuple[str, float]]


def _maps(evaluator: "Evaluator", asked: _Asked, options: Options) -> _Maps:
    """What the model does to the image under the text."""
    from gatedcir.visualize.maps import gate_map, patch_maps
    from gatedcir.visualize.words import word_shares

    pixels = asked.reference()
    found = evaluator.explain(pixels[None], [asked.text])
    aux = {name: value[0].float().cpu() for name, value in found.items() if value.ndim > 1}
    words: list[tuple[str, float]] = []
    if "text_attention" in aux:
        attention = aux["text_attention"][1:]  # the cells, without [CLS]
        names, shares = word_shares(attention, evaluator.tokenizer.words(asked.text))
        words = list(zip(names, shares.mean(0).tolist(), strict=True))
    return _Maps(
        gate=gate_map(aux["gate"][None])[0].numpy(),
        change=patch_maps(aux["change_map"]).numpy() if "change_map" in aux else None,
        direction=_direction(evaluator, pixels, asked, aux) if options.delta else None,
        words=words,
    )


def _direction(
    evaluator: "Evaluator", pixels: "Tensor", asked: _Asked, aux: "dict[str, Tensor]"
) -> "Direction":
    """Where delta points at each cell.

    If the target is known: the cosine with the way from the reference's token to the target's
    token at the same cell. Else the first principal component of delta over the cells.
    """
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
        return Direction(component, "δ, first component\nstandard deviations", _DEVIATIONS)
    reference, target = (
        evaluator.fuse(each[None])[1][0].float().cpu() for each in (pixels, asked.target())
    )
    cosines = cosine_map(aux["delta"], target - reference).numpy()
    return Direction(cosines, "δ, cosine with\ntarget − reference", 1.0)
