"""Where a reference image does not survive in its target, read off the tower's tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor


def lost_in_target(reference: Tensor, target: Tensor) -> Tensor:
    """1 - max_j cos(reference_i, target_j) in float32: [B, L, Dv], [B, L, Dv] -> [B, L].

    >>> lost_in_target(torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[3.0, 0.0]]]))
    tensor([[0., 1.]])
    """
    with torch.autocast(reference.device.type, enabled=False):
        one, other = (F.normalize(tokens.float(), dim=-1) for tokens in (reference, target))
        return 1 - (one @ other.transpose(1, 2)).amax(-1)
