"""Shared parts of the benchmarks: times, arithmetic, the machine's own limits, and their table."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

GIGA = 1e9


@dataclass(frozen=True)
class Limits:
    """The limits of the machine, measured in place."""

    product: float
    """Operations a second of matrix products."""
    bandwidth: float
    """Bytes a second that copying reads and writes."""

    def __str__(self) -> str:
        return (
            f"the machine's own limits: matrix products {self.product / GIGA:.0f} GFLOP/s, "
            f"memory {self.bandwidth / GIGA:.1f} GB/s, {torch.get_num_threads()} threads"
        )


def seconds(call: Callable[[], Any], *, repeats: int) -> float:
    """The time of the shortest of some calls. Other work on the machine only makes calls longer."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def operations(call: Callable[[], Any]) -> int:
    """Floating-point operations of a call's matrix products, gradients included (2 a product)."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def limits(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    side: int | None = None,
    repeats: int = 5,
    copied: int = 1 << 26,
) -> Limits:
    """The rate of a square matrix product of a type, and of a copy of so many numbers.

    By default the copy is larger than any cache.

    `side` is the side of the matrices. Without it: 1,536 on a CPU, and 8,192 on a GPU, because
    smaller matrices do not keep a GPU busy.
    """
    side = side or (1536 if device.type == "cpu" else 8192)
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = seconds(lambda: torch.mm(one, other), repeats=repeats)
    source = torch.zeros(copied, device=device)
    target = torch.zeros_like(source)
    copy = seconds(lambda: target.copy_(source), repeats=repeats)
    return Limits(2 * side**3 / product, 2 * source.nbytes / copy)
