"""A model by its name -> what a retriever needs of it."""

from typing import NamedTuple

import torch

from gatedcir.assemble.data import device_of, make_transform
from gatedcir.assemble.evaluator import place
from gatedcir.assemble.model import trained_model
from gatedcir.data.transforms import Transform
from gatedcir.device import Device
from gatedcir.gallery.identity import identity_of
from gatedcir.models.onnx_model import OnnxModel
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokenizer
from gatedcir.models.weights.sources import Pretrained, load


class Opened(NamedTuple):
    """A model on its device."""

    model: ComposedRetriever | OnnxModel
    tokenizer: Tokenizer
    transform: Transform
    runs_on: Device
    identity: dict[str, str]
    """What features depend on besides the image: weights, transform, options."""
    has_prompts: bool
    """Whether the prompts were learned. If not, a text alone is read without them."""


def open_torch(name: str, where: torch.device, found: Pretrained | None = None) -> Opened:
    """A model of PyTorch. `found` is the earlier result of `load` for this name.

    Raises:
        UserError: as `load`.
    """
    found = found or load(name)
    model, tokenizer, config = trained_model(found, name)
    transform = make_transform(config, model)
    identity = identity_of(model, config, transform)
    place(model, where, config)
    prompts = "prompt_tokens" in found.own
    return Opened(model, tokenizer, transform, device_of(config, model), identity, prompts)
