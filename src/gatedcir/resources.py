"""What a model and a process take: parameters and memory."""

import resource
import sys

import torch
from torch import nn

MIB, GIB = 2**20, 2**30


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers in a model's weights, and how many of them learn.

    >>> model = nn.Linear(3, 2)
    >>> _ = model.bias.requires_grad_(False)
    >>> count_parameters(model)
    {'parameters': 8, 'trainable_parameters': 6}
    """
    parameters = list(model.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }


def peak_memory(device: torch.device) -> int:
    """Bytes held at most since the process began: the GPU's own, else all of the process'."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
