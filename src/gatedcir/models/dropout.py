"""Dropout whose random numbers a CPU draws four at a time.

torch draws 64 bits for each number that it may drop, one after the other on one thread. 16 of them
are enough, so four numbers share a draw.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_STEPS = 1 << 16  # values of 16 bits
_LEAST = torch.iinfo(torch.int64).min  # from here on, a draw has 64 random bits


def dropout(x: Tensor, p: float, *, training: bool) -> Tensor:
    """Zero a share of the numbers of a tensor, and scale the others so that the mean stays.

    A CPU rounds the share to a multiple of 1 / 65,536. It draws from torch's generator, whose state
    a run keeps. GPUs and compiled code take torch's own dropout.

    Args:
        x: any shape.
        p: the share.
        training: without it, nothing changes.

    >>> _ = torch.manual_seed(0)
    >>> dropout(torch.ones(6), 0.5, training=True)
    tensor([0., 0., 2., 0., 0., 0.])
    """
    dropped = round(p * _STEPS)
    is_plain = x.device.type != "cpu" or torch.compiler.is_compiling()
    if is_plain or not training or not 0 < dropped < _STEPS:
        return F.dropout(x, p, training)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(_LEAST, None)
    kept = draws.view(torch.int16)[: x.numel()] >= dropped - _STEPS // 2
    return x * kept.view(x.shape).to(x.dtype).mul_(_STEPS / (_STEPS - dropped))
