"""Draw the output of the visual fusion for an image, and the words that its places attend to."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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
    from torch import Tensor

    from gatedcir.evaluation.evaluator import Evaluator
    from gatedcir.visualize.panels import Bars, Maps

_NOTHING = (
    "this model has nothing to show here; train with --model.layer-fusion, --model.scale-fusion "
    "or --model.neck, or give --text for a --model.gated-fusion.strategy that attends to words."
)


class _Query(NamedTuple):
    file: Path  # to be drawn
    pixels: "Callable[[], Tensor]"  # [3, H, W], read when they are needed
    text: str | None


class _Drawn(NamedTuple):
    bars: "list[Bars]"
    maps: "list[Maps]"


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the pictures and print their files."""
    options = parse(Options, argv, description=COMMANDS["fusion"])
    check(options, needs_text=False)
    if options.image is None:
        evaluator, queries = _of_split(options)
    else:
        evaluator, pixels = open_one(options)
        queries = _of_image(options, options.image.stem, pixels)
    for file in _draw(evaluator, list(queries)):
        print(file)


def _draw(evaluator: "Evaluator", queries: Sequence[_Query]) -> Iterator[Path]:
    from gatedcir.visualize.panels import on_one_scale, save_panels

    # All maps come before the first picture, because those of one kind share a scale.
    drawn = [_drawn(evaluator, query) for query in queries]
    for query, each, maps in zip(
        queries, drawn, on_one_scale([d.maps for d in drawn]), strict=True
    ):
        picture = picture_of(query.pixels(), evaluator.transform)
        text = query.text or ""
        save_panels(query.file, reference=picture, text=text, bars=each.bars, maps=maps)
        yield query.file


def _of_image(options: Options, name: str, pixels: "Tensor") -> Iterator[_Query]:
    """A picture for each text. Without a text, one picture."""
    for number, text in enumerate(options.text or (None,), 1):
        place = "" if number == 1 else f"-{number}"
        yield _Query(
            options.output / f"{name}-fusion{place}.{options.format}", lambda: pixels, text
        )


def _of_split(options: Options) -> tuple["Evaluator", Iterator[_Query]]:
    from gatedcir.assemble.data import load_data, make_transform
    from gatedcir.assemble.evaluator import make_evaluator, open_checkpoint
    from gatedcir.data.sources import PixelSource
    from gatedcir.data.triplets import evaluation_text

    [splits] = load_data(options.data, options.split)
    model, tokenizer, config = open_checkpoint(options.model_path, options.device)
    paths = {name: path for split in splits for name, path in split.paths.items()}
    source = PixelSource(paths, make_transform(config, model))

    def queries() -> Iterator[_Query]:
        for split in splits:
            print(f"{split.name}: {split.protocol}")
            for place in chosen(len(split.triplets), options.num):
                triplet = split.triplets[place]
                file = file_of(options, split.name, triplet.query_id, "-fusion")
                pixels = partial(source.__getitem__, triplet.reference)
                yield _Query(file, pixels, evaluation_text(triplet.captions))

    return make_evaluator(config, model, tokenizer, source), queries()


def _drawn(evaluator: "Evaluator", query: _Query) -> _Drawn:
    """The bars and maps of a query.

    Raises:
        UserError: there are none.
    """
    from gatedcir.visualize import fusion_panels

    pixels = query.pixels()
    layers, scales = evaluator.model.layers, evaluator.model.scales
    levels, fused, reported = evaluator.fuse(pixels[None])
    if query.text is not None:
        reported = evaluator.explain(pixels[None], [query.text])
    aux = {name: value[0].float().cpu() for name, value in reported.items() if value.ndim > 1}
    bars = fusion_panels.weight_bars(aux, layers=layers, scales=scales)
    maps = []
    if len(levels) > 1:
        shares = evaluator.shares(levels)[0].cpu()
        gain = reported["fusion_gain"].item() if "fusion_gain" in reported else None
        bars.append(fusion_panels.share_bars(shares, gain=gain, layers=layers, scales=scales))
        maps.append(fusion_panels.share_maps(shares, layers=layers, scales=scales))
    if "layer_gates" in aux:
        maps.append(fusion_panels.layer_gates(aux["layer_gates"], layers=layers))
    if "neck_weights" in aux:
        of_neck = evaluator.model.visual_fusion.neck_scales
        maps.append(fusion_panels.neck_weights(aux["neck_weights"], scales=of_neck))
    if evaluator.has_visual_fusion:
        found = [level[0].float().cpu() for level in levels]
        maps.append(
            fusion_panels.feature_grid(found, fused[0].float().cpu(), layers=layers, scales=scales)
        )
    if query.text is not None and "text_attention" in aux:
        words = evaluator.tokenizer.words(query.text)
        maps.append(fusion_panels.word_maps(aux["text_attention"], words=words))
    maps = [each for each in maps if each.rows]  # a text may have no word but punctuation
    if not maps:
        raise UserError(_NOTHING)
    return _Drawn(bars, maps)
