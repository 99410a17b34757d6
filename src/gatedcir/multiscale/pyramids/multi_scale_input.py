"""Read an image at several scales with a pyramid backbone, and fuse the scales level by level.

Shapes: B batch, S scales, C channels of a level, H and W of the image, K channels of a prediction.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gatedcir.multiscale.maps import resize
from gatedcir.multiscale.pyramids.scale_integration import ABSI, HierarchicalScaleIntegration
from gatedcir.multiscale.pyramids.scale_loss import Criterion, ScaleAwareLoss
from gatedcir.multiscale.pyramids.scale_selection import AdaptiveScaleSelector
from gatedcir.multiscale.recompute import call
from gatedcir.multiscale.scale_sizes import check_scales, scaled_size, warn_of_equal_sizes
from gatedcir.start import Start

# Any function of images [B, 3, H, W] that gives a list of maps, or an output with `feature_maps`.
Backbone = Callable[[Tensor], Any]
SIZE_MULTIPLE = 32  # the pixels of one position of the coarsest level


class Pyramid(nn.Module):
    """A backbone's maps as a list, projected to `out_channels` where those are given."""

    def __init__(
        self, backbone: Backbone, channels: Sequence[int], out_channels: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.channels = list(channels)
        pairs = zip(channels, out_channels or channels, strict=True)
        self.projections = nn.ModuleList(
            nn.Identity() if before == after else nn.Conv2d(before, after, 1)
            for before, after in pairs
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> the levels, each [B, C, h, w].

        Raises:
            ValueError: the backbone's maps have other channels.
        """
        output: Any = self.backbone(images)
        maps = list(output.feature_maps if hasattr(output, "feature_maps") else output)
        if (found := [one.shape[1] for one in maps]) != self.channels:
            raise ValueError(f"the backbone's levels have {found} channels, not {self.channels}")
        return [project(one) for project, one in zip(self.projections, maps, strict=True)]


class MultiScaleInputProcessor(nn.Module):
    """One backbone reads the image at every scale. Each level's scales become one map.

    Images are resized bilinearly, sides to multiples of 32.

    Args:
        backbone: shared by all scales. A name is one for `create_backbone`.
        channels_list: C of each level; by default those that the backbone names.
        scales: coarse to fine, 1.0 among them.
        use_hierarchical: integrate stage by stage; else by attention across scales.
        scale_weights: of the scales' losses; by default 1.0 for 1.0x and 0.5 for the others.
        consistency: the weight of the predictions' consistency in the loss.
        num_classes: K of each scale's prediction head.
        start: with "identity" the output at first is the 1.0x levels, as in a warm-up.
        selector: chooses scales image by image. At inference a scale is then computed only for the
            images that need it, and its levels are zero for the others.
        multi_scale: False starts with the 1.0x scale alone, until `enable_multi_scale`.
        sequential: compute each scale's backbone again in the backward pass, one after the other,
            so that memory holds the activations of one scale at a time.
        checkpointing: the same, and also for the integrations of the levels.

    Raises:
        ValueError: scales that `check_scales` refuses, another number of scale weights, a selector
            of other scales, (without `use_hierarchical`) channels that are no multiple of 8, or
            neither `channels_list` nor a backbone with `channels`.
    """

    def __init__(
        self,
        backbone: Backbone | str = "pvt_v2_b2",
        channels_list: Sequence[int] | None = None,
        scales: Sequence[float] = (0.5, 1.0, 1.5),
        use_hierarchical: bool = True,
        *,
        scale_weights: Sequence[float] | None = None,
        consistency: float = 0.0,
        num_classes: int = 1,
        start: Start = "seed",
        selector: AdaptiveScaleSelector | None = None,
        multi_scale: bool = True,
        sequential: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.scales = check_scales(scales, at_least=2)
        self.base = self.scales.index(1.0)
        if scale_weights is None:
            scale_weights = [1.0 if scale == 1 else 0.5 for scale in self.scales]
        if len(scale_weights) != len(self.scales):
            raise ValueError(f"scale_weights {list(scale_weights)} for the scales {self.scales}")
        if selector is not None and selector.scales != self.scales:
            raise ValueError(f"a selector of {selector.scales} for the scales {self.scales}")
        backbone, channels_list = _with_channels(backbone, channels_list)
        self.pyramids = nn.ModuleList([Pyramid(backbone, channels_list)])
        integration = HierarchicalScaleIntegration if use_hierarchical else ABSI
        self.integrations = nn.ModuleList(
            integration(channels, scales=self.scales, start=start) for channels in channels_list
        )
        width = channels_list[0]
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, num_classes, 1)
            )
            for _ in self.scales
        )
        self.loss = ScaleAwareLoss(scale_weights, consistency=consistency, base=self.base)
        self.selector = selector
        self.multi_scale = multi_scale
        self.sequential = sequential
        self.checkpointing = checkpointing

    def enable_multi_scale(self, enabled: bool = True) -> None:
        """End the warm-up. As with `train()`, the setting is not saved in the state."""
        self.multi_scale = enabled

    def forward(
        self, x: Tensor, return_loss_inputs: bool = False, return_multi_scale: bool = False
    ) -> Any:
        """Read and fuse images [B, 3, H, W].

        Returns:
            The fused levels, each [B, C, h, w] at the 1.0x scale. `return_loss_inputs` adds each
            scale's prediction [B, K, h, w] from its finest level. `return_multi_scale` adds each
            scale's levels. With both, they come in this order. In the warm-up the levels are those
            of the 1.0x scale as they are, and the two lists hold that scale alone.
        """
        weights = None
        seen = [self._levels(x, self.base)]
        if self.multi_scale:
            height, width = x.shape[-2:]
            warn_of_equal_sizes(self.scales, (height, width), SIZE_MULTIPLE)
            if self.selector is not None:
                weights, _ = self.selector(x)
            base = seen[0]
            choice = None if return_loss_inputs else weights  # every scale has a prediction
            seen = [
                base if i == self.base else self._chosen_levels(x, i, choice, base)
                for i in range(len(self.scales))
            ]
        results: list[Any] = [self._fuse(seen, weights) if self.multi_scale else seen[0]]
        if return_loss_inputs:
            heads = self.heads if self.multi_scale else [self.heads[self.base]]
            results.append([head(one[0]) for head, one in zip(heads, seen, strict=True)])
        if return_multi_scale:
            results.append(seen)
        return tuple(results) if len(results) > 1 else results[0]

    def compute_loss(
        self, predictions: Sequence[Tensor], target: Tensor, criterion: Criterion
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the scales' losses and its terms by name, see `ScaleAwareLoss`."""
        return self.loss(predictions, target, criterion)

    def _levels(self, x: Tensor, index: int) -> list[Tensor]:
        """The levels of one scale."""
        height, width = x.shape[-2:]
        image = resize(x, scaled_size((height, width), self.scales[index], SIZE_MULTIPLE))
        pyramid = self.pyramids[min(index, len(self.pyramids) - 1)]
        return call(pyramid, image, recompute=self.sequential or self.checkpointing)

    def _chosen_levels(
        self, x: Tensor, index: int, weights: Tensor | None, base: list[Tensor]
    ) -> list[Tensor]:
        """The levels of one scale. At inference they are computed only where it has a weight."""
        # In training they are always computed, because the weight's gradient depends on them.
        if weights is None or self.training or torch.is_grad_enabled():
            return self._levels(x, index)
        chosen = weights[:, index] > 0  # [B]
        if not chosen.any():
            return [torch.zeros_like(level) for level in base]
        levels = self._levels(x[chosen], index)
        filled = [one.new_zeros(len(x), *one.shape[1:]) for one in levels]
        for whole, part in zip(filled, levels, strict=True):
            whole[chosen] = part
        return filled

    def _fuse(self, seen: list[list[Tensor]], weights: Tensor | None) -> list[Tensor]:
        """Levels by scale -> one map a level."""
        return [
            call(integration, maps, weights, recompute=self.checkpointing)[0]
            for integration, maps in zip(self.integrations, zip(*seen, strict=True), strict=True)
        ]


class ScaleSpecificProcessor(MultiScaleInputProcessor):
    """Another backbone for each scale, projected to the 1.0x backbone's channels.

    Args:
        backbones: one a scale, coarse to fine. A name is one for `create_backbone`.
        channels: C of each backbone's levels, of which all backbones have as many; by default those
            that the backbones name.
        scales: coarse to fine, 1.0 among them.
        options: as in `MultiScaleInputProcessor`.

    Raises:
        ValueError: another number of backbones or channels than of scales.
    """

    def __init__(
        self,
        backbones: Sequence[Backbone | str] = ("resnet50", "pvt_v2_b2", "efficientnet"),
        channels: Sequence[Sequence[int]] | None = None,
        scales: Sequence[float] = (0.5, 1.0, 1.5),
        **options: Any,
    ) -> None:
        scales = check_scales(scales, at_least=2)
        given: Sequence[Sequence[int] | None] = [None] * len(backbones)
        given = given if channels is None else channels
        if not len(backbones) == len(given) == len(scales):
            raise ValueError(
                f"{len(backbones)} backbones of {len(given)} channels for the scales {scales}"
            )
        made = [_with_channels(*pair) for pair in zip(backbones, given, strict=True)]
        backbone, base = made[scales.index(1.0)]
        super().__init__(backbone, base, scales, **options)
        self.pyramids = nn.ModuleList(Pyramid(one, widths, base) for one, widths in made)


def _with_channels(
    backbone: Backbone | str, channels: Sequence[int] | None
) -> tuple[Backbone, Sequence[int]]:
    """A backbone, made if it is a name, and its channels, asked for if they are not given."""
    if isinstance(backbone, str):
        from gatedcir.multiscale.pyramids.pyramid_backbones import create_backbone

        backbone = create_backbone(backbone)
    found = getattr(backbone, "channels", None) if channels is None else channels
    if found is None:
        raise ValueError("the backbone does not name its channels: give channels_list")
    return backbone, found
