"""What each layer and scale contributes to the fused map, place by place.

Shapes: B batch, L visual tokens, N layers, S scales, Dv vision width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def level_shares(fusion: nn.Module, levels: Sequence[Tensor]) -> Tensor:
    """The share of each level in the fused map: [B, S * N, L], which add up to 1 over the levels.

    A level counts by how far the fused token moves without it: the level is set to zero, and the
    absolute differences are averaged over the channels. This measures weights, gates, projections
    and the residual gain together. A layer's weight alone can be large while the gain lets nothing
    of it through.

    Args:
        fusion: a `VisualFusion`, in evaluation.
        levels: its input, S * N maps [B, L, Dv], each with its own L.
    """
    fused, _ = fusion(levels)
    moved = []
    for place, level in enumerate(levels):
        others = list(levels)
        others[place] = torch.zeros_like(level)
        moved.append((fusion(others)[0] - fused).float().abs().mean(-1))
    found = torch.stack(moved, dim=1)
    return found / found.sum(1, keepdim=True).clamp(min=torch.finfo(found.dtype).tiny)
