"""Fuse the tokens of several layers of the vision tower into one token map.

The first level given is the main one. Shapes: B batch, L visual tokens, N layers, Dv vision width.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gatedcir.models.visual_fusion.levels import (
    ChannelAttentionFusion,
    ConcatFusion,
    TokenLevels,
    WeightedSumFusion,
    check_levels,
)
from gatedcir.start import Aux

Combine = Literal["product", "gate_only"]
_HIDDEN = 512  # of the context encoder
_DROPOUT = 0.1


class DynamicMultiScaleFusion(nn.Module):
    """A weight for each layer from the whole image, times a gate for each layer at each position.

    fused = sum over the layers of weight_i * gate_i * level_i, then Dropout(LN(W fused)). The
    weights are a softmax over the layers of an MLP on the levels' averages. A gate is the sigmoid
    of an MLP on the token itself.

    Args:
        encoder_output_size: Dv.
        num_layers: N.
        fusion_dim: width of the output; None for Dv.
        use_gate: False leaves the gates out, and the weights alone decide.
        combine: "gate_only" leaves the weights out, for comparison. The context encoder is then
            frozen, because it would get no gradient.

    Raises:
        ValueError: fewer than one layer, a width too small for the gates, an unknown `combine`,
            or neither weights nor gates.
    """

    def __init__(
        self,
        encoder_output_size: int,
        num_layers: int = 2,
        fusion_dim: int | None = None,
        use_gate: bool = True,
        *,
        combine: Combine = "product",
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers={num_layers} is not positive")
        if encoder_output_size < 2:
            raise ValueError(f"encoder_output_size={encoder_output_size} is less than 2")
        if combine not in ("product", "gate_only"):
            raise ValueError(f"combine={combine!r} is neither 'product' nor 'gate_only'")
        if combine == "gate_only" and not use_gate:
            raise ValueError("combine='gate_only' needs use_gate=True")
        self.encoder_output_size = encoder_output_size
        self.num_layers = num_layers
        self.fusion_dim = encoder_output_size if fusion_dim is None else fusion_dim
        self.use_gate = use_gate
        self.combine = combine
        self.context_encoder = _mlp(encoder_output_size * num_layers, _HIDDEN, num_layers)
        self.context_encoder.requires_grad_(combine == "product")
        if use_gate:
            self.gate_generators = nn.ModuleList(
                _mlp(encoder_output_size, encoder_output_size // 2, 1) for _ in range(num_layers)
            )
        self.fusion_projection = nn.Sequential(
            nn.Linear(encoder_output_size, self.fusion_dim),
            nn.LayerNorm(self.fusion_dim),
            nn.Dropout(_DROPOUT),
        )

    def forward(self, features_list: Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """N levels [B, L, Dv] -> [B, L, fusion_dim].

        Returns:
            The tokens, and aux: `layer_weights` [B, N], which add up to 1, and `layer_gates`
            [B, N, L] in [0, 1]. Aux holds only those that are in use.

        Raises:
            ValueError: another number of levels, another width, or levels of unequal shapes.
        """
        check_levels(features_list, [self.encoder_output_size] * self.num_layers, axis=2)
        aux: Aux = {}
        shares = features_list[0].new_ones(1, self.num_layers, 1)
        if self.combine == "product":
            means = torch.cat([level.mean(1) for level in features_list], dim=-1)  # [B, N * Dv]
            aux["layer_weights"] = self.context_encoder(means).softmax(-1)
            shares = shares * aux["layer_weights"][..., None]  # [B, N, 1]
        if self.use_gate:
            pairs = zip(self.gate_generators, features_list, strict=True)
            scores = torch.stack([gate(level)[..., 0] for gate, level in pairs], dim=1)
            aux["layer_gates"] = torch.sigmoid(scores)
            shares = shares * aux["layer_gates"]  # [B, N, L]
        fused = sum(shares[:, i, :, None] * level for i, level in enumerate(features_list))
        return self.fusion_projection(fused), aux


def _mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.LayerNorm(hidden),
        nn.GELU(),
        nn.Dropout(_DROPOUT),
        nn.Linear(hidden, out),
    )


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


# Each is called with `width` (Dv) and `num_levels` (N).
LAYER_FUSIONS: dict[str, Callable[..., nn.Module]] = {
    "none": FirstLevel,
    "mean": MeanFusion,
    "dynamic": lambda *, width, num_levels: DynamicMultiScaleFusion(width, num_levels),
    "dynamic-gate-only": lambda *, width, num_levels: DynamicMultiScaleFusion(
        width, num_levels, combine="gate_only"
    ),
    "dynamic-no-gate": lambda *, width, num_levels: DynamicMultiScaleFusion(
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
