"""Measurements of memory, of parameters and of time."""

import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from torch import nn

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

Result = TypeVar("Result")
MIB, GIB = 2**20, 2**30
_CONTROLLERS = Path("/sys/fs/cgroup")
_SHARED = Path("/dev/shm")  # a container's is 64 MB unless --shm-size says otherwise
_OWN_GROUPS = Path("/proc/self/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def timed(call: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """The result of a call, and the seconds until the device was done with it."""
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers in a model's weights, and how many of them are trained.

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
    """Bytes of all tensors in dictionaries, lists and tuples. A file of them is hardly larger.

    >>> tensor_bytes({"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.int64), "text"]})
    28
    """
    if isinstance(content, torch.Tensor):
        return content.nbytes
    if isinstance(content, Mapping):
        return sum(map(tensor_bytes, content.values()))
    return sum(map(tensor_bytes, content)) if isinstance(content, list | tuple) else 0


def keep_freed_memory() -> None:
    """Keep freed memory for later use instead of returning it to the system.

    glibc returns large blocks at once. Every training step then waits for the system to clear the
    same gigabytes again. Does nothing with other C libraries.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes since the process began: that of the GPU, else that of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return psutil.Process().memory_info().peak_wset
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory() -> int:
    """Free bytes: of the machine, or below the control group's limit if that is less."""
    return min([psutil.virtual_memory().available, *group_rooms(_CONTROLLERS, _OWN_GROUPS)])


def fits_in_memory(images: int, bytes_per_image: int) -> bool:
    """Whether the features of so many images need at most half of the free memory.

    Each process of a machine holds its own copy, and all processes share that half.
    """
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return images * bytes_per_image * sharing <= free_memory() // 2


def shared_memory() -> int | None:
    """Free bytes of shared memory for this process' workers. None if the system does not say.

    Training processes of one machine share the free bytes.
    """
    if not _SHARED.is_dir():
        return None
    return psutil.disk_usage(str(_SHARED)).free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def largest_file() -> int | None:
    """Bytes that a file of this process may have. None without a limit (ulimit -f)."""
    if resource is None:
        return None
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if most == resource.RLIM_INFINITY else most


def group_rooms(controllers: Path, own_groups: Path) -> Iterator[int]:
    """Bytes left below the memory limit of this process' control group and each one above it.

    Containers and job schedulers set such limits, and the machine's own figures do not show them.
    Pages of files count as used there, but the system frees them if memory is needed.

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
        # Inside a container, the path may be the host's. Only the top group is then there.
        for folder in (group, *group.parents):
            room = _room(folder, *names)
            if room is not None:
                yield room
            if folder == top:
                break


def _room(folder: Path, limit_name: str, usage_name: str, reclaimable: str) -> int | None:
    """Bytes left below one group's limit. None if it has no limit."""
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
