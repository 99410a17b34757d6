"""Attention within the layers of the vision tower, and then between them.

Shapes: B batch, L visual tokens, N layers, Dv vision width, R reduced width.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gatedcir.multiscale.feature_fusion import AttentionFusion
from gatedcir.multiscale.level_fusion import check_levels
from gatedcir.multiscale.pyramids.scale_integration import CrossScaleAttention
from gatedcir.start import Aux

_MOST_HEADS = 8


class PlaceAttention(nn.Module):
    """Every place chooses among the layers: `AttentionFusion` on tokens, R channels wide.

    A linear layer brings the result back to Dv.
    """

    def __init__(self, *, width: int, num_levels: int, reduced: int = 64) -> None:
        super().__init__()
        self.widths = (width,) * num_levels
        self.fusion = AttentionFusion(self.widths, reduced)
        self.output = nn.Linear(reduced, width)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """N levels [B, L, Dv] -> [B, L, Dv].

        Returns:
            The tokens, and aux: `layer_gates` [B, N, L], which add up to 1 over the layers.

        Raises:
            ValueError: another number of levels, another width, or levels of unequal shapes.
        """
        check_levels(levels, self.widths, axis=2)
        maps = [level.transpose(1, 2)[..., None] for level in levels]  # [B, Dv, L, 1]
        fused, aux = self.fusion.compute(maps)
        return self.output(fused[..., 0].transpose(1, 2)), {"layer_gates": aux["weights"][..., 0]}


class CrossLevelAttention(nn.Module):
    """Self-attention among the places of each layer, then attention among the layers of each place.

    Each layer is reduced to R channels and normalised. Both attentions are added to what they read.
    The mean over the layers goes through a linear layer back to Dv. Between the layers, the
    attention is that of `CrossScaleAttention`.
    """

    def __init__(self, *, width: int, num_levels: int, reduced: int = 64) -> None:
        super().__init__()
        self.widths = (width,) * num_levels
        heads = math.gcd(reduced, _MOST_HEADS)
        self.reductions = nn.ModuleList(
            nn.Sequential(nn.Linear(width, reduced), nn.LayerNorm(reduced)) for _ in self.widths
        )
        self.within = nn.ModuleList(
            nn.MultiheadAttention(reduced, heads, batch_first=True) for _ in self.widths
        )
        self.norm = nn.LayerNorm(reduced)
        self.between = CrossScaleAttention(reduced, num_levels, num_heads=heads)
        self.output = nn.Linear(reduced, width)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """N levels [B, L, Dv] -> [B, L, Dv], and an empty aux.

        Raises:
            ValueError: another number of levels, another width, or levels of unequal shapes.
        """
        check_levels(levels, self.widths, axis=2)
        found = []
        for level, reduce, attend in zip(levels, self.reductions, self.within, strict=True):
            tokens = reduce(level)  # [B, L, R]
            found.append(tokens + attend(tokens, tokens, tokens, need_weights=False)[0])
        stacked = torch.stack(found, dim=2)  # [B, L, N, R]
        stacked = stacked + self.between(self.norm(stacked))
        return self.output(stacked.mean(2)), {}
