"""Compute activations again in the backward pass instead of keeping them."""

from contextlib import nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


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


def call(module: nn.Module, *inputs: Any, recompute: bool) -> Any:
    """The module's output. With `recompute`, activations are computed again for the gradient.

    Results, gradients, random numbers and the statistics of batch normalization are the same.
    Source: gradient checkpointing, Chen et al. 2016.
    """
    if not recompute:
        return module(*inputs)
    contexts = (nullcontext(), _FixedStatistics(module))
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=lambda: contexts)
