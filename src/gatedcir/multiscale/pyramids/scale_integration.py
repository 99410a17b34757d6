"""Fuse the maps of one level at several input scales on the grid of the 1.0x scale.

Shapes: B batch, S scales, N = H * W positions of the 1.0x map, C channels.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gatedcir.multiscale.maps import ChannelAttention, SpatialAttention, resize
from gatedcir.multiscale.scale_sizes import check_scales
from gatedcir.start import Aux, Start, zero


class ScaleIntegration(nn.Module):
    """The base class of the integrations: maps on one grid, and the residual to the 1.0x map.

    `start="identity"` zeroes the last layer of the update, so that the output at step 0 is the
    1.0x map.

    Raises:
        ValueError: scales that `check_scales` refuses, or fewer than two.
    """

    def __init__(self, channels: int, *, scales: Sequence[float] = (0.5, 1.0, 1.5)) -> None:
        super().__init__()
        self.channels = channels
        self.scales = check_scales(scales, at_least=2)
        self.base = self.scales.index(1.0)

    def forward(self, maps: Sequence[Tensor], weights: Tensor | None = None) -> tuple[Tensor, Aux]:
        """The 1.0x map plus the update.

        Args:
            maps: one [B, C, h, w] a scale, coarse to fine.
            weights: [B, S], the weight of each scale. A scale with weight zero has no influence.

        Returns:
            [B, C, H, W], and the aux of `update`.

        Raises:
            ValueError: another number of maps, or maps of other channels, than configured.
        """
        update, aux = self.update(self.align(maps), weights)
        return maps[self.base] + update, aux

    def align(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """All maps at the size of the 1.0x map: S times [B, C, H, W]."""
        if len(maps) != len(self.scales):
            raise ValueError(f"{len(maps)} maps for the {len(self.scales)} scales {self.scales}")
        for scale, one in zip(self.scales, maps, strict=True):
            if one.shape[1] != self.channels:
                raise ValueError(
                    f"the {scale}x map has {one.shape[1]} channels, not {self.channels}"
                )
        height, width = maps[self.base].shape[-2:]
        return [resize(one, (height, width)) for one in maps]

    @abstractmethod
    def update(self, maps: list[Tensor], weights: Tensor | None = None) -> tuple[Tensor, Aux]:
        """The update of the 1.0x map: [B, C, H, W] from S times [B, C, H, W], and aux."""


def weigh(maps: list[Tensor], weights: Tensor | None) -> list[Tensor]:
    """Each scale's map times its weight: weights [B, S], or None for ones."""
    if weights is None:
        return maps
    return [one * weights[:, i, None, None, None] for i, one in enumerate(maps)]


class CrossScaleAttention(nn.Module):
    """Multi-head attention among the scales of one position: [B, N, S, C] -> [B, N, S, C].

    Each scale has its own projections to query, key and value. The scores are [B, N, heads, S, S],
    so that cost and memory grow with N and not with its square. The attention is written out,
    because a fused kernel takes B * N * heads problems of S tokens as a batch larger than its grid.
    """

    def __init__(self, channels: int, num_scales: int, *, num_heads: int = 8) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"{channels} channels cannot be split over num_heads={num_heads}")
        self.num_heads = num_heads
        self.projections = nn.ModuleList(
            nn.Linear(channels, 3 * channels) for _ in range(num_scales)
        )

    def forward(self, tokens: Tensor, weights: Tensor | None = None) -> Tensor:
        """Weights [B, S] multiply the attention to each scale, in addition to its score."""
        projected = torch.stack(
            [project(tokens[:, :, i]) for i, project in enumerate(self.projections)], dim=2
        )  # [B, N, S, 3 C]
        split = projected.unflatten(-1, (3, self.num_heads, -1))  # [B, N, S, 3, heads, C / heads]
        query, key, value = split.permute(3, 0, 1, 4, 2, 5)  # each [B, N, heads, S, C / heads]
        scores = query @ key.transpose(-1, -2) * key.shape[-1] ** -0.5
        attention = scores.softmax(-1)  # [B, N, heads, S, S]
        if weights is not None:
            attention = attention * weights[:, None, None, None]
            attention = attention / attention.sum(-1, keepdim=True)
        return (attention @ value).transpose(2, 3).flatten(-2)  # [B, N, S, C]


class ABSI(ScaleIntegration):
    """Attention-based scale integration: attention across scales, weighted by their importance.

    The importance is the softmax of a projection of all scales' pooled maps. The output projection
    also replaces the attention's own, because the sum between the two is linear.
    Attention: Vaswani et al., NeurIPS 2017.

    Raises:
        ValueError: `channels` is no multiple of `num_heads`; scales as in `ScaleIntegration`.
    """

    def __init__(
        self,
        channels: int,
        *,
        scales: Sequence[float] = (0.5, 1.0, 1.5),
        num_heads: int = 8,
        start: Start = "seed",
    ) -> None:
        super().__init__(channels, scales=scales)
        num_scales = len(self.scales)
        self.importance = nn.Linear(num_scales * channels, num_scales)
        self.attention = CrossScaleAttention(channels, num_scales, num_heads=num_heads)
        self.output = nn.Linear(channels, channels)
        if start == "identity":
            zero(self.output)

    def update(self, maps: list[Tensor], weights: Tensor | None = None) -> tuple[Tensor, Aux]:
        """As in `ScaleIntegration`. Aux has `scale_weights` [B, S], which sum to one."""
        maps = weigh(maps, weights)
        pooled = torch.cat([one.mean((2, 3)) for one in maps], dim=1)  # [B, S C]
        importance = self.importance(pooled).softmax(1)  # [B, S]
        if weights is not None:
            importance = importance * weights
            importance = importance / importance.sum(1, keepdim=True)
        tokens = torch.stack([one.flatten(2).transpose(1, 2) for one in maps], dim=2)
        attended = self.attention(tokens, weights)  # [B, N, S, C]
        summed = (attended * importance[:, None, :, None]).sum(2)  # [B, N, C]
        update = self.output(summed).transpose(1, 2).unflatten(2, maps[0].shape[-2:])
        return update, {"scale_weights": importance}


class IntegrationStage(nn.Module):
    """Two maps [B, C, H, W] -> one: convolutions, then attention over channels and positions.

    The order of the two attentions is CBAM's (Woo et al., ECCV 2018).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(2 * channels, channels, 1)
        self.activation = nn.GELU()
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.channel_attention = ChannelAttention(channels, activation=nn.GELU)
        self.spatial_attention = SpatialAttention()

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Both [B, C, H, W]."""
        both = torch.cat([coarse, fine], dim=1)  # [B, 2 C, H, W]
        fused = self.mix(self.activation(self.reduce(both)))
        fused = fused * self.channel_attention(fused)
        return fused * self.spatial_attention(fused)


class HierarchicalScaleIntegration(ScaleIntegration):
    """Integrate coarse to fine, one scale a stage: with three scales, (0.5x, 1.0x), then 1.5x.

    After deep layer aggregation (Yu et al., CVPR 2018), across scales instead of layers.

    Raises:
        ValueError: scales as in `ScaleIntegration`.
    """

    def __init__(
        self,
        channels: int,
        *,
        scales: Sequence[float] = (0.5, 1.0, 1.5),
        start: Start = "seed",
    ) -> None:
        super().__init__(channels, scales=scales)
        stages = [IntegrationStage(channels) for _ in self.scales[1:]]
        self.stages = nn.ModuleList(stages)
        if start == "identity":
            zero(stages[-1].mix)

    def update(self, maps: list[Tensor], weights: Tensor | None = None) -> tuple[Tensor, Aux]:
        """As in `ScaleIntegration`. Aux is empty."""
        fused, *finer = weigh(maps, weights)
        for stage, fine in zip(self.stages, finer, strict=True):
            fused = stage(fused, fine)
        return fused, {}
