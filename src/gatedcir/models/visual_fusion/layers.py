"""Fuse the tokens of several layers of the vision tower into one token map.

The first level given is the main one. Shapes: B batch, L visual tokens, N layers, Dv vision width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gatedcir.multiscale.dynamic_fusion import DynamicLayerFusion
from gatedcir.multiscale.level_fusion import (
    ChannelAttentionFusion,
    ConcatFusion,
    WeightedSumFusion,
    check_levels,
)
from gatedcir.start import Aux


class _WithoutWeights(nn.Module):
    """The base class of the fusions without parameters. They take the others' arguments."""

    def __init__(self, *, width: int, num_levels: int) -> None:
        super().__init__()
        self.widths = (width,) * num_levels


class MeanFusion(_WithoutWeights):
    """The mean of the levels."""

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """N levels [B, L, Dv] -> [B, L, Dv], and an empty aux.

        Raises:
            ValueError: another number of levels, another width, or levels of unequal shapes.
        """
        check_levels(levels, self.widths, axis=2)
        return torch.stack(list(levels)).mean(0), {}


class FirstLevel(_WithoutWeights):
    """The main level as it is: no fusion."""

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """N levels [B, L, Dv] -> the first, and an empty aux.

        Raises:
            ValueError: another number of levels, another width, or levels of unequal shapes.
        """
        check_levels(levels, self.widths, axis=2)
        return levels[0], {}


class TokenLevels(nn.Module):
    """A fusion of maps for the tokens of a transformer's layers.

    The strategies of `level_fusion` read single positions and averages over all of them, but no
    neighbours. Tokens can therefore be maps of L rows and one column, with the image's own token
    as one more position. A linear layer brings a fusion of another width back to Dv.
    """

    def __init__(self, fusion: nn.Module, *, width: int) -> None:
        super().__init__()
        self.fusion = fusion
        found = int(fusion.out_channels)  # type: ignore[arg-type]
        self.projection = nn.Identity() if found == width else nn.Linear(found, width)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """N levels [B, L, Dv] -> [B, L, Dv], and the fusion's aux.

        Raises:
            ValueError: the levels do not fit the fusion.
        """
        maps = [level.transpose(1, 2)[..., None] for level in levels]  # [B, Dv, L, 1]
        fused, aux = self.fusion(maps)
        return self.projection(fused[..., 0].transpose(1, 2)), aux


# Each is called with `width` (Dv) and `num_levels` (N).
LAYER_FUSIONS: dict[str, Callable[..., nn.Module]] = {
    "none": FirstLevel,
    "mean": MeanFusion,
    "dynamic": lambda *, width, num_levels: DynamicLayerFusion(width, num_levels),
    "dynamic-gate-only": lambda *, width, num_levels: DynamicLayerFusion(
        width, num_levels, combine="gate_only"
    ),
    "dynamic-no-gate": lambda *, width, num_levels: DynamicLayerFusion(
        width, num_levels, use_gate=False
    ),
    "concat": lambda *, width, num_levels: TokenLevels(
        ConcatFusion(channels=[width] * num_levels), width=width
    ),
    "weighted-sum": lambda *, width, num_levels: TokenLevels(
        WeightedSumFusion(channels=[width] * num_levels), width=width
    ),
    "channel-attention": lambda *, width, num_levels: TokenLevels(
        ChannelAttentionFusion(channels=[width] * num_levels), width=width
    ),
}
