"""Draw where the text opens the gate, for one image and texts or for queries of a dataset."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gatedcir.commands import pictures
from gatedcir.commands.main import COMMANDS
from gatedcir.commands.pictures import (
    check,
    file_of,
    open_one,
)
from gatedcir.errors import UserError
from gatedcir.options.parsing import parse
from gatedcir.outputs import check_file_to_write

if TYPE_CHECKING:
    from gatedcir.commands.sheets import Sheet
    from gatedcir.evaluation.evaluator import Evaluator

_PICTURES = 8


@dataclass(frozen=True)
class Options(pictures.Options):
    """Which model, which queries, and where the pictures go."""

    output: Path | None = None  # type: ignore[assignment]
    """Folder for the pictures. --measure needs none."""
    num: int | None = None  # type: ignore[assignment]
    """How many queries, spread evenly over the split (for FashionIQ, over each category). Without
    it: 8 pictures. With --measure, all queries."""
    swaps: bool = False
    """Of synthetic data: draw images under two texts that change different objects, in place of
    queries."""
    index: Path | None = None
    """With --image: an index that gatedcir index made with this model. Its best images are drawn
    below the maps."""
    sheet: bool = False
    """Draw all queries or texts as one picture, a grid for a column of a paper."""
    delta: bool = False
    """Also draw the direction of the change at each cell."""
    change_scale: float | None = None
    """The change at the upper end of the colours. Without it: the largest change of all pictures
    that the command draws, rounded up. Give it to compare pictures of two commands."""
    measure: bool = False
    """Print figures in place of drawing: where the gate opens against what truly changes, how the
    maps follow the text, and the recall with the gate closed."""
    json: Path | None = None
    """File to write the figures of --measure to."""
    boxes: Path | None = None
    """With --measure: a JSON file of places to look at, such as {"12": [[0.1, 0.5, 0.4, 1]]}. It
    names queries, and the left, top, right and bottom of boxes in fractions of the reference."""


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the pictures and print their files, or measure."""
    options = parse(Options, argv, description=COMMANDS["gates"])
    if options.measure:
        _measure(options)
        return
    for flag, value in (("json", options.json), ("boxes", options.boxes)):
        if value is not None:
            raise UserError(f"--{flag} {value} is for --measure; add it, or leave the file out.")
    if options.output is None:
        raise UserError("--output is missing; name a folder for the pictures, or pass --measure.")
    if options.sheet and options.delta:
        raise UserError("--sheet has no room for --delta; leave one of them out.")
    options = replace(options, num=_PICTURES if options.num is None else options.num)
    check(options, needs_text=True)
    if options.index is not None and (options.image is None or options.sheet):
        raise UserError(
            f"--index {options.index} is searched for one --image, without --sheet; leave one out."
        )
    if options.swaps and options.image is not None:
        raise UserError("--swaps takes its images from a dataset; give --dataset, not --image.")
    if options.change_scale is not None and not 0 < options.change_scale < math.inf:
        raise UserError(f"--change-scale {options.change_scale} is no scale; give more than 0.")
    for file in _draw_split(options) if options.image is None else _draw_one(options):
        print(file)


def _measure(options: Options) -> None:
    if options.dataset is None or options.image is not None or options.text:
        raise UserError("--measure looks at the queries of a dataset; give --dataset NAME alone.")
    if options.output is not None:
        raise UserError(f"--measure draws nothing into --output {options.output}; leave it out.")
    for flag in ("swaps", "sheet", "delta", "change_scale", "index"):
        if getattr(options, flag):
            name = flag.replace("_", "-")
            raise UserError(f"--measure draws nothing; leave --{name} out, or --measure.")
    if options.num is not None and options.num < 1:
        raise UserError(f"--num {options.num} asks for no query; give 1 or more.")
    if options.json is not None:
        check_file_to_write(options.json, "--json", "figures")
    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.commands.measure import measure

    evaluator, splits = open_evaluator(
        options.model_path, options.data, options.split, device=options.device
    )
    if not evaluator.has_gate:
        raise _no_gate()
    measure(
        evaluator,
        splits,
        options.data.folder,
        num=options.num,
        boxes=options.boxes,
        json=options.json,
        title=str(options.model_path),
    )


def _draw_one(options: Options) -> Iterator[Path]:
    """One sheet, a row for each text."""
    from gatedcir.commands.sheets import Asked, Sheet, of_files

    assert options.output and options.image
    found = _searched(options)
    evaluator, pixels = open_one(options)
    if not evaluator.has_gate:
        raise _no_gate()
    file = options.output / f"{options.image.stem}-gate.{options.format}"
    rows = [
        Asked(text, lambda: pixels, others=of_files(evaluator, files, options.image))
        for text, files in zip(options.text, found, strict=True)
    ]
    return _draw(options, evaluator, [Sheet(file, rows)])


def _searched(options: Options) -> list[list[Path]]:
    """The best images of the index for each text. Without an index there are none."""
    if options.index is None:
        return [[] for _ in options.text]
    from gatedcir.commands.sheets import TOP
    from gatedcir.gallery.retriever import Retriever

    retriever = Retriever.from_pretrained(options.model_path, device=options.device)
    gallery = retriever.open(options.index)
    hits = [gallery.search(options.image, text, k=TOP) for text in options.text]
    gallery.close()
    return [[hit.path for hit in those] for those in hits]


def _draw_split(options: Options) -> Iterator[Path]:
    """A sheet for each query, or for each image with two texts."""
    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.commands.sheets import Sheet, of_queries, of_swaps
    from gatedcir.data.changes import read_changes

    evaluator, splits = open_evaluator(
        options.model_path, options.data, options.split, device=options.device
    )
    if not evaluator.has_gate:
        raise _no_gate()
    assert options.num
    sheets: list[Sheet] = []
    for split in splits:
        print(f"{split.name}: {split.protocol}")
        known = read_changes(options.data.folder, split.name)
        find = of_swaps if options.swaps else of_queries
        place = partial(file_of, options, split.name)
        sheets += find(evaluator, split, known, num=options.num, file_of=place)
    return _draw(options, evaluator, sheets)


def _draw(options: Options, evaluator: "Evaluator", sheets: "list[Sheet]") -> Iterator[Path]:
    from gatedcir.commands.sheets import draw

    assert options.output
    return draw(
        evaluator,
        sheets,
        delta=options.delta,
        change_top=options.change_scale,
        together=options.output / f"sheet.{options.format}" if options.sheet else None,
    )


def _no_gate() -> UserError:
    from gatedcir.models.gated_fusion.strategies import with_a_gate

    *first, last = with_a_gate()
    return UserError(
        f"this model has no gate; train with --model.gated-fusion.strategy {', '.join(first)} or "
        f"{last}."
    )
