"""What an index must know of the model that made it."""

import json

from gatedcir.data.transforms import Transform
from gatedcir.features.cache import hash_weights
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.options.config import Config
from gatedcir.options.model_config import ModelConfig
from gatedcir.options.parsing import to_dict

PARTS = ("weights", "transform", "options")
_OF_QUERIES = ("query-branch", "matcher")  # options of the model


def identity_of(model: ComposedRetriever, config: Config, transform: Transform) -> dict[str, str]:
    """What features depend on besides the image: weights, transform, options.

    The model must be as it was loaded, before the tower's precision is chosen.
    """
    # The features of images do not depend on what only queries go through, nor on options that
    # later versions add.
    usual, options = to_dict(ModelConfig()), to_dict(config)["model"]
    options = {n: v for n, v in options.items() if n not in _OF_QUERIES and v != usual[n]}
    parts = (
        hash_weights(model.state_dict()),
        repr(transform),
        hash_weights({}, json.dumps(options, sort_keys=True)),
    )
    return dict(zip(PARTS, parts, strict=True))
