"""Fuse the tokens of several layers of the vision tower into one token map.

The first level given is the main one. Shapes: B batch, L visual tokens, N layers, Dv vision width.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gatedcir.models.visual_fusion.layer_attention import CrossLevelAttention, PlaceAttention
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


class SumFusion(nn.Module):
    """The levels added, each times one number: a given one, or one that is learned.

    Args:
        width: Dv.
        num_levels: N.
        weights: one number a level. Without them, each is 1 / N.
        learned: train the numbers.

    Raises:
        ValueError: another number of weights than of levels.
    """

    weights: Tensor  # [N]

    def __init__(
        self,
        *,
        width: int,
        num_levels: int,
        weights: Sequence[float] | None = None,
        learned: bool = False,
    ) -> None:
        super().__init__()
        self.widths = (width,) * num_levels
        found = torch.tensor(weights if weights else [1 / num_levels] * num_levels)
        if len(found) != num_levels:
            raise ValueError(f"{len(found)} weights for {num_levels} levels")
        if learned:
            self.weights = nn.Parameter(found)
        else:
            self.register_buffer("weights", found, persistent=False)  # the options have them

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """N levels [B, L, Dv] -> [B, L, Dv], and aux: `layer_weights` [B, N].

        Raises:
            ValueError: another number of levels, another width, or levels of unequal shapes.
        """
        check_levels(levels, self.widths, axis=2)
        fused = sum(self.weights[i] * level for i, level in enumerate(levels))
        assert isinstance(fused, Tensor)
        return fused, {"layer_weights": self.weights.expand(fused.shape[0], -1)}


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


REDUCED = 64  # channels
# Each is called with `width` (Dv) and `num_levels` (N). Those of REDUCING also get `reduced`.
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
    "concat": lambda *, width, num_levels, reduced=REDUCED: TokenLevels(
        ConcatFusion(channels=[width] * num_levels, reduced=reduced), width=width
    ),
    "weighted-sum": lambda *, width, num_levels: TokenLevels(
        WeightedSumFusion(channels=[width] * num_levels), width=width
    ),
    "channel-attention": lambda *, width, num_levels: TokenLevels(
        ChannelAttentionFusion(channels=[width] * num_levels), width=width
    ),
    "fixed-sum": SumFusion,  # also gets `weights`
    "learned-sum": partial(SumFusion, learned=True),
    "attention": PlaceAttention,
    "cross-attention": CrossLevelAttention,
}
REDUCING = ("concat", "attention", "cross-attention")
"""Those that reduce every layer to fewer channels."""


def make_layer_fusion(
    name: str,
    *,
    width: int,
    num_levels: int,
    reduced: int = REDUCED,
    weights: Sequence[float] | None = None,
) -> nn.Module:
    """An entry of `LAYER_FUSIONS`.

    Args:
        name: of the entry.
        width: Dv.
        num_levels: N.
        reduced: channels to which the entries of `REDUCING` reduce each layer.
        weights: of fixed-sum, one number a layer.

    Raises:
        ValueError: weights for another kind, or another number of them.
    """
    options: dict[str, Any] = {"reduced": reduced} if name in REDUCING else {}
    if name == "fixed-sum":
        options = {"weights": weights}
    elif weights:
        raise ValueError(f"{name} takes no layer weights")
    return LAYER_FUSIONS[name](width=width, num_levels=num_levels, **options)
