"""The frozen vision towers, which a checkpoint names by their hashes and does not hold.

A frozen tower is that of the weights a run began with, and makes up most of a large checkpoint.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Tower = dict[str, Tensor]
"""The frozen weights of a tower, by their names in it."""
# The last LayerNorm of a tower always trains.
_FROZEN = re.compile(
    r"((?:backbone|scale_towers\.towers\.\d+)\.vision_model\.)(?!post_layernorm\.)(.+)"
)


def towers_in(weights: Mapping[str, Tensor]) -> dict[str, Tower]:
    """The towers that fine-tuning freezes, by what all names of their weights begin with.

    >>> towers_in({"backbone.vision_model.encoder.x": 1, "temp": 2})
    {'backbone.vision_model.': {'encoder.x': 1}}
    """
    found: dict[str, Tower] = {}
    for name, weight in weights.items():
        if match := _FROZEN.fullmatch(name):
            found.setdefault(match[1], {})[match[2]] = weight
    return found


def without_towers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that are no frozen tower's."""
    return {name: weight for name, weight in weights.items() if not _FROZEN.fullmatch(name)}


def names_of(source: str) -> tuple[str, ...]:
    """A name of weights, and if it is a path, the same from the root on."""
    path = Path(source)
    return tuple(dict.fromkeys([source, *([str(path.resolve())] if path.exists() else [])]))


def note_of(tower: Tower, sources: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint says of a tower that it leaves out.

    Args:
        tower: all of its weights are of one type.
        sources: names of weights with this tower, as --backbone takes them.
    """
    [dtype] = {weight.dtype for weight in tower.values()}
    name = str(dtype).removeprefix("torch.")
    return {"hash": hash_weights(tower), "dtype": name, "sources": list(sources)}


def find_noted(note: Mapping[str, Any], towers: Iterable[Tower]) -> Tower | None:
    """The one of some towers that a checkpoint's note names. None if none of them is."""
    dtype = getattr(torch, note["dtype"])
    for tower in towers:
        found = {name: weight.to(dtype) for name, weight in tower.items()}
        if hash_weights(found) == note["hash"]:
            return found
    return None


def hash_weights(weights: Mapping[str, Tensor], start: str = "") -> str:
    """A hash of names, types, shapes and values, and of the text `start`."""
    found = hashlib.sha256(start.encode())
    for name, weight in sorted(weights.items()):
        found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        found.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]
