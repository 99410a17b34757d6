"""Compute activations again in the backward pass instead of keeping them."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

_everywhere = ContextVar("everywhere", default=False)


@contextmanager
def enable_gradient_checkpointing() -> Iterator[None]:
    """Inside, the networks of this package keep the inputs of their parts and nothing between.

    The backward pass computes the rest again, also after the context has ended. Outputs and
    gradients stay the same.

    >>> import torch
    >>> from gatedcir.multiscale import PyramidNetwork
    >>> model = PyramidNetwork(in_channels=3, out_channels=1, num_levels=4, base_channels=32)
    >>> with enable_gradient_checkpointing():
    ...     output = model(torch.randn(1, 3, 32, 32))
    """
    token = _everywhere.set(True)
    try:
        yield
    finally:
        _everywhere.reset(token)


class _FixedStatistics:
    """While entered, no batch normalization of the module counts the batch it sees.

    The batch was counted when it was computed first. The context may be entered again, for
    example where two losses are differentiated one after the other.
    """

    def __init__(self, module: nn.Module) -> None:
        self.norms = [one for one in module.modules() if isinstance(one, _BatchNorm)]

    def __enter__(self) -> None:
        self.before = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, count) in zip(self.norms, self.before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def call(module: nn.Module, *inputs: Any, recompute: bool = False) -> Any:
    """The module's output. With `recompute`, activations are computed again for the gradient.

    `enable_gradient_checkpointing` has the same effect on every call inside.

    Results, gradients, random numbers and the statistics of batch normalization are the same.
    Source: gradient checkpointing, Chen et al. 2016.
    """
    if not (recompute or _everywhere.get()):
        return module(*inputs)
    contexts = (nullcontext(), _FixedStatistics(module))
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=lambda: contexts)
