"""Draw where the text opens the gate, for one image and text or for queries of a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gatedcir.commands import pictures
from gatedcir.commands.main import COMMANDS
from gatedcir.commands.pictures import (
    check,
    chosen,
    file_of,
    open_one,
    picture_of,
)
from gatedcir.errors import UserError, check_file_to_write
from gatedcir.options.parsing import parse

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from gatedcir.evaluation.evaluator import Evaluator
    from gatedcir.evaluation.ranking import Ranking

_TOP = 5
_PICTURES = 8


@dataclass(frozen=True)
class Options(pictures.Options):
    """Which model, which queries, and where the pictures go."""

    output: Path | None = None  # type: ignore[assignment]
    """Folder for the pictures. --measure needs none."""
    num: int | None = None  # type: ignore[assignment]
    """How many queries, spread evenly over the split (for FashionIQ, over each category). Without
    it: 8 pictures; with --measure, all queries."""
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
    options = replace(options, num=_PICTURES if options.num is None else options.num)
    check(options, needs_text=True)
    for file in _draw_split(options) if options.image is None else _draw_one(options):
        print(file)


def _measure(options: Options) -> None:
    if options.dataset is None or options.image is not None or options.text is not None:
        raise UserError("--measure looks at the queries of a dataset; give --dataset NAME alone.")
    if options.output is not None:
        raise UserError(f"--measure draws nothing into --output {options.output}; leave it out.")
    if options.num is not None and options.num < 1:
        raise UserError(f"--num {options.num} asks for no query; give 1 or more.")
    if options.json is not None:
        check_file_to_write(options.json, "--json")
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


def _draw_one(options: Options) -> list[Path]:
    from gatedcir.visualize.gate_figure import Picture, save_gate_figure

    assert options.output and options.image and options.text
    evaluator, pixels = open_one(options)
    gate, picture = _gate_and_picture(evaluator, pixels, options.text)
    file = options.output / f"{options.image.stem}-gate.png"
    save_gate_figure(file, reference=Picture(picture, "reference"), gate=gate, text=options.text)
    return [file]


def _draw_split(options: Options) -> list[Path]:
    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.evaluation.ranking import rank

    evaluator, splits = open_evaluator(
        options.model_path, options.data, options.split, device=options.device
    )
    if not evaluator.has_gate:
        raise _no_gate()
    assert options.output and options.num
    files = []
    for split in splits:
        print(f"{split.name}: {split.protocol}")
        ranking = rank(split, *evaluator.encode(split))
        for query in chosen(len(split.triplets), options.num):
            files.append(_draw_query(options.output, evaluator, ranking, query))
    return files


def _draw_query(folder: Path, evaluator: "Evaluator", ranking: "Ranking", query: int) -> Path:
    from gatedcir.visualize.gate_figure import Picture, save_gate_figure

    split, triplet = ranking.split, ranking.split.triplets[query]
    transform = evaluator.transform
    text = evaluator.benchmark.evaluation_text(triplet.captions)

    def pixels(name: str) -> "Tensor":
        return transform(transform.open(split.paths[name]))

    gate, picture = _gate_and_picture(evaluator, pixels(triplet.reference), text)
    others, names = [], ranking.names(query)
    if triplet.target is not None:
        place = names.index(triplet.target) + 1 if triplet.target in names else None
        title = f"target, found at {place}" if place else f"target, not in the first {len(names)}"
        target = picture_of(pixels(triplet.target), transform)
        others.append(Picture(target, title, right=True))
    for place, name in enumerate(names[:_TOP], 1):
        found = picture_of(pixels(name), transform)
        others.append(Picture(found, f"retrieved {place}", right=name in triplet.targets))
    file = file_of(folder, split.name, triplet.query_id)
    reference = Picture(picture, "reference")
    save_gate_figure(file, reference=reference, gate=gate, text=text, others=others)
    return file


def _no_gate() -> UserError:
    from gatedcir.models.gated_fusion.strategies import with_a_gate

    *first, last = with_a_gate()
    return UserError(
        f"this model has no gate; train with --model.gated-fusion.strategy {', '.join(first)} or "
        f"{last}."
    )


def _gate_and_picture(
    evaluator: "Evaluator", pixels: "Tensor", text: str
) -> tuple["np.ndarray", "np.ndarray"]:
    """The gate's map [H, W] and the image [H, W, 3] that the model sees."""
    from gatedcir.visualize.maps import enlarge, gate_map

    aux = evaluator.explain(pixels[None], [text])
    if "gate" not in aux:
        raise _no_gate()
    height, width = pixels.shape[1:]
    gate = enlarge(gate_map(aux["gate"].float().cpu()), (height, width))[0].numpy()
    return gate, picture_of(pixels, evaluator.transform)
