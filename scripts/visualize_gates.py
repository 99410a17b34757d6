"""Draw where the text opens the gate: for one image and text, or for queries of a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gatedcir.config import DataConfig, Dataset, parse
from gatedcir.errors import UserError, run_command

if TYPE_CHECKING:
    from torch import Tensor

    from gatedcir.data.transforms import Transform
    from gatedcir.validate import Evaluator, Ranking

_TOP = 5
_NO_GATE = "this model has no gate; train with --model.gated-fusion.strategy gated or interpolate."


@dataclass(frozen=True)
class Options:
    """Which model, which queries, and where the pictures go."""

    model_path: Path
    """A run's folder or a checkpoint file, or weights as --backbone of training takes them."""
    output: Path
    """Folder for the pictures."""
    image: Path | None = None
    """A reference image; goes with --text."""
    text: str | None = None
    """How to change the image."""
    dataset: Dataset | None = None
    """Take queries of this dataset instead."""
    data_path: Path | None = None
    """Its folder; ./cirr_dataset or ./fashionIQ_dataset when not given."""
    split: str = "val"
    """Its split."""
    num: int = 8
    """How many queries, spread evenly over the split (for FashionIQ, over each category)."""
    skip_missing: bool = False
    """Go on without images that have no file."""


def main(argv: Sequence[str] | None = None) -> None:
    """Draw; print the files."""
    options = parse(Options, argv, description="Draw gate maps.")
    one = options.image is not None
    if one != (options.text is not None) or one == (options.dataset is not None):
        raise UserError("give either --image FILE with --text TEXT, or --dataset NAME.")
    for file in _draw_one(options) if one else _draw_split(options):
        print(file)


def _draw_one(options: Options) -> list[Path]:
    from gatedcir.assemble import make_evaluator, make_transform, open_checkpoint
    from gatedcir.data.features import PixelSource
    from gatedcir.data.load import check_caption
    from gatedcir.visualize.figures import Picture, save_gate_figure

    assert options.image is not None and options.text is not None
    check_caption(options.text, where="--text")
    model, tokenizer, config = open_checkpoint(options.model_path)
    source = PixelSource({"reference": options.image}, make_transform(config, model))
    evaluator = make_evaluator(config, model, tokenizer, source)
    gate, picture = _gate_and_picture(evaluator, source["reference"], options.text)
    file = options.output / f"{options.image.stem}-gate.png"
    save_gate_figure(file, reference=Picture(picture, "reference"), gate=gate, text=options.text)
    return [file]


def _draw_split(options: Options) -> list[Path]:
    from gatedcir.assemble import open_evaluator
    from gatedcir.validate import rank

    assert options.dataset is not None
    if options.num < 1:
        raise UserError(f"--num {options.num} asks for no picture; give 1 or more.")
    data = DataConfig(options.dataset, options.data_path, skip_missing=options.skip_missing)
    evaluator, splits = open_evaluator(options.model_path, data, options.split)
    if not evaluator.has_gate:
        raise UserError(_NO_GATE)
    files = []
    for split in splits:
        ranking = rank(split, evaluator.index(split), evaluator.queries(split))
        count = min(options.num, len(split.triplets))
        for query in np.linspace(0, len(split.triplets) - 1, count).astype(int):
            files.append(_draw_query(options.output, evaluator, ranking, int(query)))
    return files


def _draw_query(folder: Path, evaluator: "Evaluator", ranking: "Ranking", query: int) -> Path:
    from gatedcir.data.transforms import open_image
    from gatedcir.data.triplets import evaluation_text
    from gatedcir.visualize.figures import Picture, save_gate_figure

    split, triplet = ranking.split, ranking.split.triplets[query]
    transform = evaluator.transform
    text = evaluation_text(triplet.captions)

    def pixels(name: str) -> "Tensor":
        return transform(open_image(split.paths[name]))

    gate, picture = _gate_and_picture(evaluator, pixels(triplet.reference), text)
    others = []
    if triplet.target is not None:
        others.append(Picture(_picture(pixels(triplet.target), transform), "target", right=True))
    for place, name in enumerate(ranking.names(query)[:_TOP], 1):
        found = _picture(pixels(name), transform)
        others.append(Picture(found, f"retrieved {place}", right=name == triplet.target))
    file = folder / f"{split.name.replace(' ', '-')}-{triplet.query_id}.png"
    reference = Picture(picture, "reference")
    save_gate_figure(file, reference=reference, gate=gate, text=text, others=others)
    return file


def _gate_and_picture(
    evaluator: "Evaluator", pixels: "Tensor", text: str
) -> tuple["np.ndarray", "np.ndarray"]:
    """The gate's map [H, W] and the image [H, W, 3] that the model sees."""
    from gatedcir.visualize.maps import enlarge, gate_map

    aux = evaluator.explain(pixels[None], [text])
    if "gate" not in aux:
        raise UserError(_NO_GATE)
    height, width = pixels.shape[1:]
    gate = enlarge(gate_map(aux["gate"].float().cpu()), (height, width))[0].numpy()
    return gate, _picture(pixels, evaluator.transform)


def _picture(pixels: "Tensor", transform: "Transform") -> "np.ndarray":
    from gatedcir.visualize.maps import to_picture

    return to_picture(pixels, mean=transform.mean, std=transform.std).numpy()


if __name__ == "__main__":
    run_command(main)
