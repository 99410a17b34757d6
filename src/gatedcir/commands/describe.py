"""What a model consists of: parse, open, print."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gatedcir.commands.main import COMMANDS
from gatedcir.options.config import ModelPath
from gatedcir.options.parsing import parse

if TYPE_CHECKING:
    from gatedcir.models.retriever import ComposedRetriever


@dataclass(frozen=True)
class Options:
    """Which model."""

    model_path: ModelPath


def main(argv: Sequence[str] | None = None) -> None:
    """Print a model's source, parameters, shapes and options."""
    options = parse(Options, argv, description=COMMANDS["describe"])
    import yaml

    from gatedcir.assemble.model import trained_model
    from gatedcir.models.weights.sources import load
    from gatedcir.options.parsing import to_dict

    found = load(str(options.model_path))
    model, _, config = trained_model(found, str(options.model_path))
    print(f"weights: {found.description}")
    if found.run is not None:
        for name, value in found.run.metrics.items():
            print(f"  {name}: {value:.2f}")
    print("\nparameters:", *_parameters(model), sep="\n")
    print("\nshapes:", *_shapes(model), sep="\n")
    print("\noptions:", yaml.safe_dump(to_dict(config), sort_keys=False), sep="\n", end="")


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
