"""Where a reference image does not survive in its target: a map that teaches the gate, no labels.

Every training triplet shows what its text changed: the places of the reference that have no
counterpart anywhere in the target. Shapes: B batch, L patches (without [CLS]), Dv vision width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gatedcir.errors import UserError
from gatedcir.start import Aux

_LEAST = 0.01  # a mean change per channel that counts as little


@dataclass(frozen=True)
class Survival:
    """How the map of a triplet is made."""

    layers: Sequence[int] = ()
    """Blocks of the vision tower whose outputs are compared. Empty: those that the model reads."""
    cut: float = 0.3
    """A place that is lost by this much, or by more, counts as changed."""
    taught: Literal["gate", "change"] = "gate"
    """What the map teaches."""


def lost_in_target(reference: Tensor, target: Tensor) -> Tensor:
    """1 - max_j cos(reference_i, target_j) in float32: [B, L, Dv], [B, L, Dv] -> [B, L].

    >>> lost_in_target(torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[3.0, 0.0]]]))
    tensor([[0., 1.]])
    """
    with torch.autocast(reference.device.type, enabled=False):
        one, other = (F.normalize(tokens.float(), dim=-1) for tokens in (reference, target))
        return 1 - (one @ other.transpose(1, 2)).amax(-1)


def relative(change: Tensor) -> Tensor:
    """How far each place changes next to the most changed one, in (0, 1): [B, L] -> [B, L].

    (x + e) / (max + 2 e) with e = 0.01. Where nothing changes yet it is 1/2, as a gate that has not
    learned, and its gradient stays bounded.

    >>> relative(torch.tensor([[0.0, 0.0], [0.0, 0.98]]))
    tensor([[0.5000, 0.5000],
            [0.0100, 0.9900]])
    """
    return (change + _LEAST) / (change.amax(-1, keepdim=True) + 2 * _LEAST)


@torch.no_grad()
def gate_target(
    levels: Sequence[Tensor], references: Tensor, targets: Tensor, *, cut: float
) -> Tensor:
    """What the gate should be, from 0 where the reference survives to 1: [B, L].

    Args:
        levels: [U, 1 + L, Dv] each, of U images, the image's own token first. Maps of several
            levels are averaged.
        references: [B], which of the images is each triplet's reference.
        targets: [B], the same for each triplet's target.
        cut: see `Survival`.
    """
    pairs = [
        [level.index_select(0, places) for level in levels] for places in (references, targets)
    ]
    return (lost_from_levels(*pairs) / cut).clamp(0, 1)


def lost_from_levels(references: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """`lost_in_target` of the patches of several levels [B, 1 + L, Dv], averaged: [B, L]."""
    lost = [
        lost_in_target(one[:, 1:], other[:, 1:])
        for one, other in zip(references, targets, strict=True)
    ]
    return torch.stack(lost).mean(0)


def over_channels(aux: Aux) -> Tensor:
    """The gate's mean over channels at every patch: [B, L - 1]. UserError if there is none."""
    if "gate" not in aux:
        raise UserError("the fusion gives no gate for --loss-gate to teach; pass --loss-gate 0.")
    return aux["gate"][:, 1:].float().mean(-1)
