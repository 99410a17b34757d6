"""The check of a fusion of your own, before any training."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gatedcir.errors import UserError
from gatedcir.models.gated_fusion.strategies import STRATEGIES
from gatedcir.plugins import errors_of

_BATCH, _WORDS = 2, 8
_WANTED = "let it return tokens of the image's shape [B, L, Dv], or (tokens, aux) with a dict aux"


@torch.no_grad()
def check_own(fusion: nn.Module, name: str, *, tokens: int, width: int, text_width: int) -> None:
    """Call a fusion once, and look at what it returns. Those of the package are not called.

    Random states and the fusion's mode stay as they are.

    Args:
        fusion: the module.
        name: its path, as in `my_file:MyFusion`.
        tokens: visual tokens of an image, L.
        width: their width, Dv.
        text_width: the width of the text's tokens, D.

    Raises:
        UserError: it fails, or returns another thing than tokens of the image's shape and a dict.
    """
    if name in STRATEGIES:
        return
    image, text = torch.zeros(_BATCH, tokens, width), torch.zeros(_BATCH, _WORDS, text_width)
    training = fusion.training
    what = "the forward pass of the fusion strategy"
    with torch.random.fork_rng(devices=[]), errors_of(name, what=what, code=fusion):
        found = fusion.eval()(image, text, torch.ones(_BATCH, _WORDS, dtype=torch.long))
    fusion.train(training)
    if reason := _wrong(found, image):
        raise UserError(f"{what} {name} returns {reason}; {_WANTED}.")


def _wrong(found: Any, image: Tensor) -> str:
    """What is wrong with an output, in words. Empty if nothing is."""
    if isinstance(found, Tensor):
        found = found, {}
    if not (isinstance(found, tuple | list) and len(found) == 2):
        return f"{_kind(found)} and no pair"
    fused, aux = found
    if not isinstance(fused, Tensor):
        return f"{_kind(fused)} as tokens"
    if fused.shape != image.shape:
        return f"tokens of the shape {list(fused.shape)} for an image of {list(image.shape)}"
    return "" if isinstance(aux, Mapping) else f"{_kind(aux)} as aux"


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
