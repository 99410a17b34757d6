"""Several maps into one: concatenated, summed, or weighted by attention.

The maps may differ in size and width. Shapes: B batch, C_i channels of the i-th map, H and W height
and width of a map, S maps.

`forward` gives the fused map alone. `compute` gives it with its aux, which holds `weights`
[B, S, H, W] where the maps are weighted.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gatedcir.multiscale.maps import check_name, resize
from gatedcir.multiscale.rescaling import distinct_scales, main_scale

Fused = tuple[Tensor, dict[str, Tensor]]
Size = tuple[int, int]


class _Fusion(nn.Module):
    """The base class of the fusions: it checks the maps and sets their size."""

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.in_channels = list(in_channels)
        if not self.in_channels:
            raise ValueError("in_channels is empty: there must be a feature to fuse")
        self.out_channels = out_channels

    def compute(self, features: Sequence[Tensor], *, size: Size | None = None) -> Fused:
        """S maps [B, C_i, H_i, W_i] -> [B, out, H, W], and aux.

        Args:
            features: the maps, of `in_channels` channels.
            size: H and W; by default those of the first map.

        Raises:
            ValueError: the maps are not as many, or not as wide, as `in_channels` says.
        """
        widths = [maps.shape[1] for maps in features]
        if widths != self.in_channels:
            raise ValueError(f"features of {widths} channels given, {self.in_channels} expected")
        height, width = size or features[0].shape[-2:]
        return self.fuse(features, (height, width))

    @abstractmethod
    def fuse(self, features: Sequence[Tensor], size: Size) -> Fused:
        """`compute` for maps that have been checked."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """S maps [B, C_i, H_i, W_i] -> [B, out, H, W] of the first map's size."""
        return self.compute(features)[0]


class _Concatenation(_Fusion):
    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.mix = nn.Conv2d(sum(self.in_channels), out_channels, 1)

    def fuse(self, features: Sequence[Tensor], size: Size) -> Fused:
        return self.mix(torch.cat([resize(maps, size) for maps in features], dim=1)), {}


class _Sum(_Fusion):
    """Add the maps. A 1x1 convolution projects each one that differs from the output's width."""

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.projections = nn.ModuleList(
            nn.Identity() if width == out_channels else nn.Conv2d(width, out_channels, 1)
            for width in self.in_channels
        )

    def fuse(self, features: Sequence[Tensor], size: Size) -> Fused:
        projected = zip(self.projections, features, strict=True)
        return torch.stack([resize(layer(maps), size) for layer, maps in projected]).sum(0), {}


class AttentionFusion(_Fusion):
    """Every pixel chooses among the maps: a softmax over them of a learned score.

    This follows Chen et al. (Attention to Scale, CVPR 2016). Each map is projected to the output's
    width, and one scoring vector rates the projections. The softmax of the ratings gives the
    weights of their mean.

    Args:
        in_channels: channels of each map.
        out_channels: channels of the fused map.

    Raises:
        ValueError: there is no map.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.projections = nn.ModuleList(
            nn.Conv2d(width, out_channels, 1) for width in self.in_channels
        )
        # A bias would add the same number for all maps, so the softmax would cancel it.
        self.score = nn.Conv2d(out_channels, 1, 1, bias=False)

    def fuse(self, features: Sequence[Tensor], size: Size) -> Fused:
        """See `compute`. Aux holds `weights` [B, S, H, W], whose sum over S is 1."""
        projected = [
            resize(layer(maps), size)
            for layer, maps in zip(self.projections, features, strict=True)
        ]  # S of [B, out, H, W]
        weights = torch.cat([self.score(maps) for maps in projected], dim=1).softmax(1)
        fused = (torch.stack(projected, dim=1) * weights[:, :, None]).sum(1)
        return fused, {"weights": weights}


FUSION_METHODS: dict[str, type[_Fusion]] = {
    "concat": _Concatenation,
    "sum": _Sum,
    "attention": AttentionFusion,
}


class FeatureFusion(_Fusion):
    """Maps of different sources into one: S maps [B, C_i, H_i, W_i] -> [B, out, H, W].

    Args:
        in_channels: channels of each map.
        out_channels: channels of the fused map.
        fusion_method: "concat" (a 1x1 convolution over all channels), "sum" (without parameters
            where the widths agree, else with a 1x1 convolution a map) or "attention"
            (`AttentionFusion`).

    Raises:
        ValueError: the method is unknown; there is no map.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, fusion_method: str = "concat"
    ) -> None:
        super().__init__(in_channels, out_channels)
        check_name("fusion method", fusion_method, FUSION_METHODS)
        self.fusion = FUSION_METHODS[fusion_method](in_channels, out_channels)

    def fuse(self, features: Sequence[Tensor], size: Size) -> Fused:
        """See `compute`."""
        return self.fusion.fuse(features, size)


class ScaleFusion(nn.Module):
    """Maps of one source at several scales into one: S maps [B, in, h, w] -> [B, out, H, W].

    The fused map has the size of the map whose scale is nearest to 1.

    Args:
        scales: the scale of each map.
        in_channels: channels of every map.
        out_channels: channels of the fused map.
        fusion_method: as for `FeatureFusion`.

    Raises:
        ValueError: the method is unknown; the scales are not different numbers above 0.
    """

    def __init__(
        self,
        scales: Sequence[float],
        in_channels: int,
        out_channels: int,
        fusion_method: str = "concat",
    ) -> None:
        super().__init__()
        self.scales = distinct_scales(scales)
        self.fusion = FeatureFusion([in_channels] * len(self.scales), out_channels, fusion_method)

    def compute(self, features: Sequence[Tensor]) -> Fused:
        """S maps [B, in, h, w], in the order of the scales -> [B, out, H, W], and aux.

        Raises:
            ValueError: the maps are not one a scale, or not `in_channels` wide.
        """
        if len(features) != len(self.scales):
            raise ValueError(f"{len(features)} features given for the scales {self.scales}")
        height, width = features[main_scale(self.scales)].shape[-2:]
        return self.fusion.compute(features, size=(height, width))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The fused map alone."""
        return self.compute(features)[0]
