"""Fuse scales and layers of an image, then apply a neck: one map for the Q-Former.

Shapes: B batch, L visual tokens, N layers, S scales, Dv vision width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gatedcir.models.visual_fusion.layers import REDUCED, make_layer_fusion
from gatedcir.models.visual_fusion.necks import GRID_SCALES, NECKS
from gatedcir.models.visual_fusion.scales import SCALE_FUSIONS
from gatedcir.models.visual_fusion.start import ResidualStart
from gatedcir.multiscale.maps import to_map
from gatedcir.multiscale.pyramids.scale_selection import AdaptiveScaleSelector
from gatedcir.multiscale.scale_sizes import check_scales
from gatedcir.start import Aux, Start, zero


class VisualFusion(nn.Module):
    """Scale fusion level by level, then layer fusion, then a neck.

    Every stage is "none" or an entry of its dict. The first layer at scale 1.0 is the main map.
    With `start="identity"` the output at step 0 is that map, so that a pretrained Q-Former sees
    tokens that it knows. With `start="seed"` it is the output of the stages' random weights.

    Args:
        width: Dv.
        num_layers: N.
        scales: coarse to fine, 1.0 among them.
        scale_fusion: of `SCALE_FUSIONS`.
        layer_fusion: of `LAYER_FUSIONS`.
        neck: of `NECKS`.
        start: how all of them begin.
        layer_weights: as `make_layer_fusion` takes them.
        reduced: the same.
        neck_args: arguments of the neck.
        adaptive: choose for each image which scales it needs (`AdaptiveScaleSelector` on the
            average of the main map). At first each image needs all.

    Raises:
        ValueError: layers or scales without a fusion for them, or arguments that a stage refuses.
    """

    def __init__(
        self,
        *,
        width: int,
        num_layers: int = 1,
        scales: Sequence[float] = (1.0,),
        scale_fusion: str = "none",
        layer_fusion: str = "none",
        neck: str = "none",
        start: Start = "identity",
        layer_weights: Sequence[float] | None = None,
        reduced: int = REDUCED,
        neck_args: Mapping[str, Any] | None = None,
        adaptive: bool = False,
    ) -> None:
        super().__init__()
        scales = check_scales(scales)
        for count, fusion, what in (
            (num_layers, layer_fusion, "layer_fusion"),
            (len(scales), scale_fusion, "scale_fusion"),
        ):
            if (count > 1) != (fusion != "none"):
                raise ValueError(f"{what} is {fusion}, which does not go with {count} of them")
        stages = _Stages(
            nn.ModuleList(
                SCALE_FUSIONS[scale_fusion](width=width, scales=scales) for _ in range(num_layers)
            ),
            make_layer_fusion(
                layer_fusion,
                width=width,
                num_levels=num_layers,
                reduced=reduced,
                weights=layer_weights,
            ),
            NECKS[neck](width=width, **(neck_args or {})),
            selector=_selector(width, scales) if adaptive else None,
            main=scales.index(1.0) * num_layers,
        )
        self.neck_scales = (neck_args or {}).get("scales", GRID_SCALES)  # of the multi-scale neck
        self.num_levels = num_layers * len(scales)
        main = stages.main
        self.changes = (scale_fusion, layer_fusion, neck) != ("none",) * 3
        self.fuses_scales_only = self.changes and (layer_fusion, neck) == ("none",) * 2
        self.fuse: nn.Module = (
            ResidualStart(stages, width, main=main)
            if self.changes and start == "identity"
            else stages
        )

    @property
    def chooses_scales(self) -> bool:
        """Whether not every image needs every scale."""
        return self.stages.selector is not None

    def choose(self, main: Tensor) -> Tensor:
        """The main map of B images [B, L, Dv] -> which scales each needs, [B, S]."""
        return self.stages.choose(main) > 0

    @property
    def stages(self) -> "_Stages":
        """The three stages."""
        stages = self.fuse.module if isinstance(self.fuse, ResidualStart) else self.fuse
        assert isinstance(stages, _Stages)
        return stages

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Aux]:
        """S * N maps [B, L, Dv], all layers of the first scale first, to one.

        The N maps of scale 1.0 alone are allowed too, and skip the scale fusion.

        Returns:
            [B, L, Dv] with the L of scale 1.0, and the stages' aux.
        """
        if len(levels) == self.num_levels:
            return self.fuse(levels)
        if self.fuses_scales_only:
            gain = getattr(self.fuse, "gain", None)
            tokens = levels[0]
            aux = {} if gain is None else {"fusion_gain": gain.abs().mean().detach()}
        else:
            tokens, aux = self.fuse(levels)
        if self.chooses_scales:
            aux = {**aux, "scales_used": torch.ones((), device=tokens.device)}
        # Processes exchange gradients of all weights, so those at rest have one too, of zero.
        rest = [weight.sum() for weight in self.parameters() if weight.requires_grad]
        return tokens + 0 * torch.stack(rest).sum() if rest else tokens, aux


def _selector(width: int, scales: Sequence[float]) -> AdaptiveScaleSelector:
    """A selector that at first takes all scales, whatever the image."""
    selector = AdaptiveScaleSelector(scales, in_channels=width)
    importance = selector.layers[2]
    assert isinstance(importance, nn.Linear)
    zero(importance)
    nn.init.ones_(importance.bias)
    return selector


class _Stages(nn.Module):
    """The three stages one after the other."""

    def __init__(
        self,
        scale_fusions: nn.ModuleList,
        layer_fusion: nn.Module,
        neck: nn.Module,
        *,
        selector: AdaptiveScaleSelector | None,
        main: int,
    ) -> None:
        super().__init__()
        self.scale_fusions, self.layer_fusion, self.neck = scale_fusions, layer_fusion, neck
        self.selector, self.main = selector, main

    def choose(self, main: Tensor) -> Tensor:
        """[B, L, Dv] -> [B, S], each 0 or 1, with the gradient of the importance behind it."""
        assert self.selector is not None
        return self.selector(to_map(main)[1])[0]

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Aux]:
        count = len(self.scale_fusions)
        fused, weights = [], []
        chosen, more = None, {}
        if self.selector is not None and len(levels) > count:
            chosen = self.choose(levels[self.main])
            more = {"scales_used": chosen.detach().float().sum(1).mean()}
        for layer, fusion in enumerate(self.scale_fusions):
            of_scales = levels[layer::count]
            tokens, aux = fusion(of_scales, chosen) if len(of_scales) > 1 else (of_scales[0], {})
            fused.append(tokens)
            weights += [aux["scale_weights"]] if "scale_weights" in aux else []
        tokens, of_layers = self.layer_fusion(fused)
        tokens, of_neck = self.neck(tokens)
        shares = {"scale_weights": torch.stack(weights, dim=1)} if weights else {}
        return tokens, {**more, **shares, **of_layers, **of_neck}  # scale_weights [B, N, S]
