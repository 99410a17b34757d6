"""Fuse levels by a weight for each of them and a gate at each position.

Shapes: B batch, L tokens, N levels (layers of an encoder), Dv width.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gatedcir.multiscale.level_fusion import check_levels
from gatedcir.start import Aux

Combine = Literal["product", "gate_only"]
_HIDDEN = 512  # of the context encoder
_DROPOUT = 0.1


class DynamicLayerFusion(nn.Module):
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
            The tokens, and aux: `layer_weights` [B, N], which add up to 1, `layer_gates` [B, N, L]
            in [0, 1], and `layer_shares` [B, N, L], their product, with which each layer is added.
            Aux holds only those that are in use.

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
        aux["layer_shares"] = shares.expand(len(features_list[0]), -1, features_list[0].shape[1])
        fused = sum(shares[:, i, :, None] * level for i, level in enumerate(features_list))
        return self.fusion_projection(fused), aux


class DynamicMultiScaleFusion(DynamicLayerFusion):
    """`DynamicLayerFusion` as the design document calls it: levels in, one tensor out.

    >>> fusion = DynamicMultiScaleFusion(encoder_output_size=64, num_layers=2)
    >>> features_list = [torch.randn(1, 10, 64), torch.randn(1, 10, 64)]
    >>> fusion(features_list).shape
    torch.Size([1, 10, 64])
    """

    def forward(self, features_list: Sequence[Tensor], *, return_weights: bool = False) -> Any:
        """N levels [B, L, Dv] -> [B, L, fusion_dim]. With `return_weights` also the aux."""
        tokens, aux = super().forward(features_list)
        return (tokens, aux) if return_weights else tokens


def _mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.LayerNorm(hidden),
        nn.GELU(),
        nn.Dropout(_DROPOUT),
        nn.Linear(hidden, out),
    )
