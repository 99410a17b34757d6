"""Where the time of a training step goes, by kind of work."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from gatedcir.evaluation.report import table

KINDS = {
    "matrix products": ("mm", "bmm", "addmm", "baddbmm", "addbmm", "_scaled_mm"),
    "attention in one kernel": ("_scaled_dot_product", "_flash_attention", "_efficient_attention"),
    "softmax, norms, activations": ("softmax", "layer_norm", "gelu", "sigmoid", "tanh", "erf"),
    "optimiser": ("_fused_adam", "_foreach", "Optimizer"),
    "random numbers": ("bernoulli", "native_dropout", "uniform", "normal_", "random_"),
    "casts": ("_to_copy",),
    "copies and look-ups": ("copy_", "cat", "clone", "index", "embedding", "gather", "scatter"),
    "memory": ("empty", "fill_", "zero_", "zeros", "resize_", "set_", "new_"),
    "sums and norms of gradients": ("sum", "mean", "linalg_vector_norm", "amax", "max"),
    "element by element": ("add", "sub", "mul", "div", "where", "masked", "exp", "log", "pow"),
}
"""Kinds of work and the operations that begin so, the first kind that fits."""
REST = "views, autograd and others"
HOST = "Python and gaps"


def kind_of(name: str, caller: str = "") -> str:
    """The kind of an operation that another one may have called."""
    own, by = (each.partition("::")[2] or each for each in (name, caller))
    if own == "copy_" and by == "_to_copy":
        return "casts"
    own = own.removeprefix("_") if own.startswith(("_softmax", "_log_softmax")) else own
    own = own.removeprefix("native_") if "layer_norm" in own else own
    return next((kind for kind, names in KINDS.items() if _begins(own, names)), REST)


def _begins(name: str, names: Iterable[str]) -> bool:
    whole = ("mm", "bmm", "sum", "max", "cat")  # else they would take other operations along
    return any(name.rstrip("_") == one if one in whole else name.startswith(one) for one in names)


def profiled(call: Callable[[], Any], *, seconds: float, device: torch.device) -> str:
    """A table of the time of a call by kind of work.

    Args:
        call: what is profiled, once.
        seconds: its time without the profiler, which makes short operations longer.
        device: where it runs. On a GPU its kernels count, else the operations themselves.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
    with profile(activities=activities) as found:
        call()
    times: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for event in found.events():
        name = event.name
        if not name.startswith(("aten::", "Optimizer")):
            name = REST
        caller = event.cpu_parent.name if event.cpu_parent is not None else ""
        kind = kind_of(name, caller)
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        times[kind] += own / 1e6
        counts[kind] += 1
    times[HOST] = max(0.0, seconds - sum(times.values()))
    whole = sum(times.values())
    rows = [
        [kind, f"{1000 * time:.1f}", f"{100 * time / whole:.0f}%", str(counts[kind] or "")]
        for kind, time in sorted(times.items(), key=lambda pair: -pair[1])
    ]
    return table(["kind of work", "ms", "share", "operations"], rows)
