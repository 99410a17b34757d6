"""Fuse a vision transformer's token maps of one layer at several input scales.

Shapes: B batch, L = 1 + H * H tokens at the 1.0x scale, S scales, Dv vision width.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gatedcir.multiscale.maps import resize, to_map, to_tokens
from gatedcir.multiscale.pyramids.scale_alignment import DeformableScaleIntegration
from gatedcir.multiscale.pyramids.scale_integration import (
    ABSI,
    HierarchicalScaleIntegration,
    ScaleIntegration,
)
from gatedcir.multiscale.scale_sizes import check_scales
from gatedcir.start import Aux


class ScaleTokens(nn.Module):
    """The base class of the fusions of token maps. It checks their input.

    Raises:
        ValueError: scales that `check_scales` refuses.
    """

    def __init__(self, *, width: int, scales: Sequence[float] = (0.5, 1.0, 1.5)) -> None:
        super().__init__()
        self.width = width
        self.scales = check_scales(scales)
        self.base = self.scales.index(1.0)

    def forward(self, tokens: Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """Fuse on the 1.0x grid.

        Args:
            tokens: one [B, 1 + h * h, Dv] a scale, coarse to fine, the image's own token first.

        Returns:
            [B, L, Dv], and aux: `scale_weights` [B, S] where the fusion has them.

        Raises:
            ValueError: another number of scales, another width, or patches that form no square.
        """
        if len(tokens) != len(self.scales):
            raise ValueError(f"{len(tokens)} token maps for the scales {self.scales}")
        for scale, one in zip(self.scales, tokens, strict=True):
            if one.shape[-1] != self.width:
                raise ValueError(f"the {scale}x tokens are {one.shape[-1]} wide, not {self.width}")
        return self.fuse(tokens)

    @abstractmethod
    def fuse(self, tokens: Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """As `forward`, for tokens that have been checked."""


class NoScaleFusion(ScaleTokens):
    """The 1.0x scale's tokens as they are."""

    def fuse(self, tokens: Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """As in `ScaleTokens`. Aux is empty."""
        return tokens[self.base], {}


class MeanScaleFusion(ScaleTokens):
    """The mean over the scales, position by position, and of the images' own tokens."""

    def fuse(self, tokens: Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """As in `ScaleTokens`. Aux is empty."""
        images, patches = zip(*map(to_map, tokens), strict=True)
        height, width = patches[self.base].shape[-2:]
        resized = [resize(one, (height, width)) for one in patches]
        return to_tokens(torch.stack(images).mean(0), torch.stack(resized).mean(0)), {}


class IntegratedScaleFusion(ScaleTokens):
    """The 1.0x tokens plus a scale integration's update of all scales' normalized tokens.

    The tokens pass a LayerNorm of this module, because the tower's last one has gains that differ
    by channel. The image's own token passes through the same integration as a map of one position.
    It therefore needs no parameters of its own, and an integration that starts as the identity
    leaves it unchanged. `scale_weights` are those of the patches.

    Args:
        integration: a class of `ScaleIntegration`.
        width: Dv.
        scales: coarse to fine.
        options: further arguments of the integration, such as `start`.

    Raises:
        ValueError: the integration refuses its arguments.
    """

    def __init__(
        self,
        integration: Callable[..., ScaleIntegration],
        *,
        width: int,
        scales: Sequence[float] = (0.5, 1.0, 1.5),
        **options: Any,
    ) -> None:
        super().__init__(width=width, scales=scales)
        self.norm = nn.LayerNorm(width)
        self.integration = integration(width, scales=scales, **options)

    def fuse(self, tokens: Sequence[Tensor]) -> tuple[Tensor, Aux]:
        """As in `ScaleTokens`. Aux is the integration's."""
        images, patches = zip(*(to_map(self.norm(one)) for one in tokens), strict=True)
        update, aux = self.integration.update(self.integration.align(patches))
        points = [one.transpose(1, 2)[..., None] for one in images]  # each [B, Dv, 1, 1]
        of_image, _ = self.integration.update(points)
        return tokens[self.base] + to_tokens(of_image.flatten(2).transpose(1, 2), update), aux


SCALE_FUSIONS: dict[str, Callable[..., nn.Module]] = {
    "none": NoScaleFusion,
    "mean": MeanScaleFusion,
    "absi": partial(IntegratedScaleFusion, ABSI),
    "hierarchical": partial(IntegratedScaleFusion, HierarchicalScaleIntegration),
    "deformable": partial(IntegratedScaleFusion, DeformableScaleIntegration),
}
