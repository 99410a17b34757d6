"""Every way in which the text may change the reference's visual tokens, by its name in a config.

Each is imported when it is first asked for, so that options can name them quickly.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from gatedcir.errors import UserError
from gatedcir.plugins import errors_of, find, wrong_kind

if TYPE_CHECKING:
    from torch import nn

_HERE = "gatedcir.models.gated_fusion"


class Strategy(NamedTuple):
    """The place where a fusion is made, and a description of it."""

    path: str
    """The path of a callable. It takes the widths of image and text, and the keywords alpha_init,
    dropout and start, and returns the fusion."""
    meaning: str


STRATEGIES: dict[str, Strategy] = {
    "gated": Strategy(f"{_HERE}.gated:GatedFusion", "image + alpha*gate*delta"),
    "additive": Strategy(f"{_HERE}.gated:AdditiveFusion", "image + alpha*delta"),
    "interpolate": Strategy(
        f"{_HERE}.gated:InterpolatingFusion", "gate*(image+delta) + (1-gate)*image"
    ),
    "attentive": Strategy(
        f"{_HERE}.attentive:to_words",
        "as gated, but each token makes delta and gate from the words that it attends to",
    ),
    "contextual": Strategy(
        f"{_HERE}.attentive:to_contextual_words",
        "as attentive, after one more transformer layer over the words",
    ),
    "contextual-mean": Strategy(
        f"{_HERE}.attentive:to_their_mean",
        "the control of contextual, which is as large and sees only the mean of the words",
    ),
    "grounded": Strategy(
        f"{_HERE}.grounded:GroundedFusion",
        "as gated, but gate and delta come from layers in which the tokens attend to one another "
        "and to the words",
    ),
    "grounded-mean": Strategy(
        f"{_HERE}.grounded:to_mean_text",
        "the control of grounded, which is as large and sees only the mean of the words",
    ),
    "none": Strategy(f"{_HERE}.gated:NoFusion", "no change, the published baseline"),
}


def strategy(name: str) -> Callable[..., "nn.Module"]:
    """The callable that makes the fusion of a name, or of a path like `my_file:MyFusion`.

    Raises:
        UserError: there is none, or it cannot be called as a fusion is.
    """
    if name in STRATEGIES:
        return find(STRATEGIES[name].path, what="fusion strategy")
    found = find(name, what="fusion strategy")
    if not callable(found):
        raise wrong_kind(name, what="fusion strategy", wanted="a class of torch.nn.Module")
    try:
        inspect.signature(found).bind(1, 1, alpha_init=0.5, dropout=0.1, start="seed")
    except (TypeError, ValueError) as error:  # the second one of classes without a signature
        raise UserError(
            f"{name} cannot be made as a fusion strategy ({error}); let it take "
            "(vision_width, text_width, *, alpha_init, dropout, start)."
        ) from None
    return found


def make_fusion(
    name: str,
    vision_width: int,
    text_width: int,
    *,
    alpha_init: float,
    dropout: float,
    start: str,
    blocks: int,
) -> "nn.Module":
    """The fusion of a name or path, or several of them one after the other.

    Raises:
        UserError: as `strategy`, or it is no module.
    """
    from torch import nn

    from gatedcir.models.gated_fusion.blocks import FusionBlocks

    make = strategy(name)
    with errors_of(name, what="the fusion strategy", code=make):
        made = [
            make(vision_width, text_width, alpha_init=alpha_init, dropout=dropout, start=start)
            for _ in range(blocks)
        ]
    if not isinstance(made[0], nn.Module):
        raise wrong_kind(name, what="fusion strategy", wanted="a class of torch.nn.Module")
    return made[0] if blocks == 1 else FusionBlocks(made)


def with_a_gate() -> list[str]:
    """Names of those whose fusion gives a gate."""
    return [name for name in STRATEGIES if gives_gate(name)]


def gives_gate(name: str) -> bool:
    """Whether the fusion of a name or path says that it gives a gate. UserError as `strategy`."""
    return bool(getattr(_class_of(strategy(name)), "has_gate", False))


def _class_of(made: Any) -> Any:
    """The class behind a function with some arguments set."""
    return made.func if isinstance(made, partial) else made
