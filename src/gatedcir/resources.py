"""Memory and parameters, asked for and measured."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import torch
from torch import nn

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

MIB, GIB = 2**20, 2**30
_CONTROLLERS = Path("/sys/fs/cgroup")
_SHARED = Path("/dev/shm")  # a container's is 64 MB unless --shm-size says otherwise
_OWN_GROUPS = Path("/proc/self/cgroup")
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


def tensor_bytes(content: object) -> int:
    """Bytes of all tensors in dictionaries, lists and tuples; a file of them is hardly larger.

    >>> tensor_bytes({"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.int64), "text"]})
    28
    """
    if isinstance(content, torch.Tensor):
        return content.nbytes
    if isinstance(content, Mapping):
        return sum(map(tensor_bytes, content.values()))
    return sum(map(tensor_bytes, content)) if isinstance(content, list | tuple) else 0


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


def free_memory() -> int:
    """Bytes that are free: of the machine, or of the control group's limit where that is less."""
    return min([psutil.virtual_memory().available, *group_rooms(_CONTROLLERS, _OWN_GROUPS)])


def fits_in_memory(images: int, bytes_per_image: int) -> bool:
    """Whether the features of so many images take at most half of the memory that is free.

    Processes of one machine hold them each, and share that half.
    """
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return images * bytes_per_image * sharing <= free_memory() // 2


def shared_memory() -> int | None:
    """Bytes that this process' workers may still pass to it; None where nothing tells.

    Training processes of one machine share what is free.
    """
    if not _SHARED.is_dir():
        return None
    return psutil.disk_usage(str(_SHARED)).free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def group_rooms(controllers: Path, own_groups: Path) -> Iterator[int]:
    """Bytes left below the memory limit of this process' control group and each one above it.

    Containers and job schedulers set such limits, which the machine's own figures do not show.
    Pages of files count as used there, but make room when it is needed.

    Args:
        controllers: where the groups are mounted, in version 1 or 2 of the interface.
        own_groups: the kernel's list of the groups that this process is in.
    """
    lines = own_groups.read_text(encoding="utf-8").splitlines() if own_groups.is_file() else []
    for line in lines:
        _, kinds, place = line.split(":", 2)
        if kinds == "":
            top, names = controllers, ("memory.max", "memory.current", "inactive_file")
        elif kinds == "memory":
            top = controllers / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = top / place.strip("/")
        # Inside a container the place may be the host's, and only the top is there.
        for folder in (group, *group.parents):
            room = _room(folder, *names)
            if room is not None:
                yield room
            if folder == top:
                break


def _room(folder: Path, limit_name: str, usage_name: str, reclaimable: str) -> int | None:
    """Bytes below one group's limit; None where it has none."""
    try:
        limit = (folder / limit_name).read_text(encoding="utf-8").strip()
        usage = int((folder / usage_name).read_text(encoding="utf-8"))
        stat = (folder / "memory.stat").read_text(encoding="utf-8")
    except OSError:
        return None
    if not limit.isdigit():  # "max"
        return None
    figures = dict(line.split(maxsplit=1) for line in stat.splitlines())
    return max(0, int(limit) - usage + int(figures.get(reclaimable, 0)))
