"""Shared parts of all fusions: their start and their report."""

from typing import Literal

from torch import Tensor, nn

Start = Literal["seed", "identity"]
"""With "seed" a fusion acts from random weights. With "identity" it changes nothing at step 0."""
Aux = dict[str, Tensor]
"""Gates, weights and figures by name, in addition to a fusion's output."""


def zero(layer: nn.Module) -> None:
    """Let a linear layer or convolution give zero for every input until it is trained."""
    for parameter in layer.parameters(recurse=False):
        nn.init.zeros_(parameter)
