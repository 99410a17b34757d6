"""Copies of a thing that holds tensors, several times faster than `copy.deepcopy`."""

import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class _Writer(pickle.Pickler):
    """Leaves the tensors out."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._places = {}
        self._tensors = tensors

    def persistent_id(self, found: Any) -> int | None:
        if not isinstance(found, Tensor):
            return None
        if id(found) not in self._places:
            self._places[id(found)] = len(self._tensors)
            self._tensors.append(found)
        return self._places[id(found)]


class _Reader(pickle.Unpickler):
    """Puts other tensors in."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self.persistent_load = tensors.__getitem__


def copier(original: Any) -> Callable[[], Any]:
    """What makes copies that share nothing with the original, as it is now, nor with each other."""
    file, tensors = io.BytesIO(), []
    _Writer(file, tensors).dump(original)
    kept = [_copy(tensor) for tensor in tensors]
    return lambda: _Reader(io.BytesIO(file.getvalue()), list(map(_copy, kept))).load()


def _copy(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone(memory_format=torch.preserve_format)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copied, tensor.requires_grad)
    return copied
