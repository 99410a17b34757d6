"""The frozen vision tower, which a checkpoint names by its hash and does not hold.

A frozen tower is that of the weights a run began with, and makes up most of a large checkpoint.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gatedcir.models.backbone import Backbone
from gatedcir.models.weights.names import BACKBONE

_TOWER = f"{BACKBONE}vision_model."
_TRAINED = f"{_TOWER}post_layernorm."  # the tower's last LayerNorm always trains


def tower_names(weights: Mapping[str, Any]) -> list[str]:
    """Which of a model's weights are those of the tower that fine-tuning freezes."""
    return [n for n in weights if n.startswith(_TOWER) and not n.startswith(_TRAINED)]


def note_of(weights: Mapping[str, Tensor], sources: tuple[str, ...]) -> dict[str, Any]:
    """What a checkpoint says of the tower that it leaves out.

    Args:
        weights: of the whole model.
        sources: names of weights with this tower, as --backbone takes them.
    """
    tower = {name: weights[name] for name in tower_names(weights)}
    [dtype] = {weight.dtype for weight in tower.values()}
    name = str(dtype).removeprefix("torch.")
    return {"hash": hash_weights(tower), "dtype": name, "sources": list(sources)}


def found_in(backbone: Backbone, note: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The tower that a checkpoint's note names, if it is this backbone's."""
    weights = {BACKBONE + name: weight for name, weight in backbone.state_dict().items()}
    dtype = getattr(torch, note["dtype"])
    tower = {name: weights[name].to(dtype) for name in tower_names(weights)}
    return tower if hash_weights(tower) == note["hash"] else None


def hash_weights(weights: Mapping[str, Tensor], start: str = "") -> str:
    """A hash of names, types, shapes and values, and of the text `start`."""
    found = hashlib.sha256(start.encode())
    for name, weight in sorted(weights.items()):
        found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        found.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]
