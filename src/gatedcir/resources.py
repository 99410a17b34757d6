"""What a model and a process take: parameters and memory."""

import ctypes
import platform
import sys

import psutil
import torch
from torch import nn

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

MIB, GIB = 2**20, 2**30
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


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


def keep_freed_memory() -> None:
    """Let memory that is freed be used again instead of going back to the system.

    glibc returns large blocks at once, and every training step then waits for the system to clear
    the same gigabytes anew. Does nothing where the C library is another.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def peak_memory(device: torch.device) -> int:
    """Bytes held at most since the process began: the GPU's own, else all of the process'."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return psutil.Process().memory_info().peak_wset
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
