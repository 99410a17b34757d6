"""Draw where the text opens the gate, for one image and text or for queries of a dataset."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gatedcir.commands.main import COMMANDS
from gatedcir.commands.pictures import (
    Options,
    check,
    chosen,
    file_of,
    open_one,
    picture_of,
)
from gatedcir.errors import UserError
from gatedcir.options.parsing import parse

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from gatedcir.evaluation.evaluator import Evaluator
    from gatedcir.evaluation.ranking import Ranking

_TOP = 5


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the pictures and print their files."""
    options = parse(Options, argv, description=COMMANDS["gates"])
    check(options, needs_text=True)
    for file in _draw_split(options) if options.image is None else _draw_one(options):
        print(file)


def _draw_one(options: Options) -> list[Path]:
    from gatedcir.visualize.gate_figure import Picture, save_gate_figure

    assert options.image is not None and options.text is not None
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
