"""What a model consists of: parse, open, print, draw."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from gatedcir.commands.main import COMMANDS
from gatedcir.errors import UserError, plain
from gatedcir.options.config import Config, DataConfig
from gatedcir.options.parsing import parse
from gatedcir.outputs import check_file_to_write

if TYPE_CHECKING:
    from gatedcir.models.retriever import ComposedRetriever


_DEFAULT = Config(DataConfig("CIRR"))
_MORE = "Without --model-path: the model that these options of training would make."


@dataclass(frozen=True)
class Options:
    """A trained model, or the options of a training."""

    model_path: Annotated[
        Path | None, tyro.conf.arg(help="A trained model. Its own options are those of its run.")
    ] = None
    svg: Path | None = None
    """File to write a picture of the architecture to."""
    training: Annotated[Config, tyro.conf.arg(name="")] = _DEFAULT


def main(argv: Sequence[str] | None = None) -> None:
    """Print the architecture. Of a trained model also its source, parameters, shapes, options."""
    options = parse(Options, argv, description=f"{COMMANDS['describe']} {_MORE}")
    if options.svg is not None:
        check_file_to_write(options.svg, "--svg", "architecture")
    if options.model_path is not None and options.training != _DEFAULT:
        raise UserError(
            "--model-path names a model that has its own options; leave options of training out, "
            "or leave it out."
        )
    from gatedcir.assemble.architecture import letters_of, outline, parts_of
    from gatedcir.files import write_text
    from gatedcir.options.checks import check_ranges
    from gatedcir.visualize.architecture import to_svg, to_text

    config = options.training
    check_ranges(config)
    if options.model_path is None:
        model = outline(config)
    else:
        model, config = _describe(str(options.model_path))
    parts, letters = parts_of(config, model), letters_of(config, model)
    if options.model_path is None:
        print(to_text(parts, letters))
    if options.svg is not None:
        write_text(options.svg, to_svg(parts, letters, title=f"Architecture of {_name(config)}"))
        print(f"\npicture: {options.svg}")


def _name(config: Config) -> str:
    strategy = config.model.gated_fusion.strategy
    return plain(f"{config.backbone.backbone} with the text-image fusion {strategy}")


def _describe(name: str) -> "tuple[ComposedRetriever, Config]":
    """Print a trained model's source, parameters, shapes and options."""
    import yaml

    from gatedcir.assemble.model import trained_model
    from gatedcir.models.weights.sources import load
    from gatedcir.options.parsing import to_dict

    found = load(name)
    model, _, config = trained_model(found, name)
    print(f"weights: {found.description}")
    if found.run is not None:
        for metric, value in found.run.metrics.items():
            print(f"  {plain(metric)}: {value:.2f}")
    print("\nparameters:", *_parameters(model), sep="\n")
    print("\nshapes:", *_shapes(model), sep="\n")
    print("\noptions:", yaml.safe_dump(to_dict(config), sort_keys=False), sep="\n", end="")
    return model, config


def _parameters(model: "ComposedRetriever") -> Iterator[str]:
    """How many parameters each part has, and how many of them are trained."""
    total, trained = Counter[str](), Counter[str]()
    for name, parameter in model.named_parameters():
        first, *others = name.split(".")
        part = f"{first}.{others[0]}" if first == "backbone" else first
        for row in (part, "all"):
            total[row] += parameter.numel()
            trained[row] += parameter.numel() * parameter.requires_grad
    width = max(map(len, total))
    for part in sorted(total, key=lambda row: row == "all"):
        yield f"  {part:{width}}  {total[part]:>13,}  {trained[part]:>13,} trained"


def _shapes(model: "ComposedRetriever") -> Iterator[str]:
    """Shapes of an image's features, and of the model's weights outside the backbone."""
    backbone = model.backbone
    side, queries = backbone.image_size, backbone.num_query_tokens
    yield f"  image: 3 x {side} x {side}"
    for scale in model.scales:
        tokens, width = model.level_shape(scale)
        yield f"  visual tokens at scale {scale}: {tokens} x {width}"
    yield f"  layers read: {', '.join(map(str, model.layers))}"
    yield f"  Q-Former: {queries} queries x {backbone.width}"
    yield f"  target features: {queries} x {model.embedding_width}"
    yield f"  query feature: {model.embedding_width}"
    for name, parameter in model.named_parameters():
        if not name.startswith("backbone."):
            yield f"  {name}: {' x '.join(map(str, parameter.shape)) or 'one number'}"
