"""Networks that see a map at several scales: [B, in, H, W] -> [B, out, H, W] of any size.

Shapes: B batch, C channels, H and W height and width of a map, S scales. Normalisation is over one
image (one group), so that an image's result is independent of the rest of the batch.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedcir.multiscale.feature_fusion import FUSION_METHODS, Fused
from gatedcir.multiscale.last_call import Found, LastCall
from gatedcir.multiscale.maps import SpatialAttention, check_name, resize
from gatedcir.multiscale.recompute import call
from gatedcir.multiscale.rescaling import MultiScaleTransform, distinct_scales, main_scale

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "softmax": partial(nn.Softmax, dim=1),
}


def conv_block(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, normalisation, ReLU: [B, in, H, W] -> [B, out, ceil(H / stride), ...]."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(1, out_channels),
        nn.ReLU(),
    )


class MultiScaleModel(nn.Module):
    """One model applied to the input at several scales, its results fused.

    All results are resized to the size at the scale nearest to 1. No fusion has weights of its own
    for a scale, so scales can be added and removed at any time while all weights stay as they are.
    The width of "concat" depends on the number of scales. The scales are part of the
    configuration, not of the `state_dict`.

    Args:
        scales: factors for the input's height and width.
        base_model: [B, in, h, w] -> [B, C, h', w']; without it the input itself is fused.
        fusion_method: "concat" (S * C channels, no parameters), "sum" (C channels, no parameters)
            or "attention" (C channels: each pixel's mean over the scales, weighted by the
            `SpatialAttention` of each result, which works for any C).

    Raises:
        ValueError: the method is unknown; the scales are not different numbers above 0.
    """

    def __init__(
        self,
        scales: Sequence[float] = (1.0, 0.5, 0.25),
        base_model: nn.Module | None = None,
        fusion_method: str = "concat",
    ) -> None:
        super().__init__()
        check_name("fusion method", fusion_method, FUSION_METHODS)
        self.transform = MultiScaleTransform(scales)
        self.base_model = nn.Identity() if base_model is None else base_model
        self.fusion_method = fusion_method
        self.attention = SpatialAttention() if fusion_method == "attention" else None

    @property
    def scales(self) -> list[float]:
        """The scales in the order of their channels in "concat"."""
        return list(self.transform.scales)

    def add_scale(self, scale: float) -> None:
        """Process the input at one more scale.

        Raises:
            ValueError: the scale is there already, or not above 0.
        """
        self.transform.scales = distinct_scales([*self.scales, scale])

    def remove_scale(self, scale: float) -> None:
        """Stop processing the input at this scale.

        Raises:
            ValueError: the scale is not there, or the only one.
        """
        if scale not in self.scales:
            raise ValueError(f"there is no scale {scale} to remove: scales are {self.scales}")
        self.transform.scales = distinct_scales([kept for kept in self.scales if kept != scale])

    def compute(self, x: Tensor) -> Fused:
        """[B, in, H, W] -> [B, C, H', W'], and aux: `weights` [B, S, H', W'] of "attention"."""
        maps = [call(self.base_model, scaled) for scaled in self.transform(x)]
        height, width = maps[main_scale(self.scales)].shape[-2:]
        maps = [resize(one, (height, width)) for one in maps]
        if self.fusion_method == "concat":
            return torch.cat(maps, dim=1), {}
        stacked = torch.stack(maps, dim=1)  # [B, S, C, H', W']
        if self.attention is None:
            return stacked.sum(1), {}
        scores = torch.cat([self.attention(one) for one in maps], dim=1).float()
        # The scores are in (0, 1). Divided by their sum, they are the weights of a mean.
        weights = F.normalize(scores, p=1.0, dim=1).to(stacked.dtype)  # [B, S, H', W']
        return (stacked * weights[:, :, None]).sum(1), {"weights": weights}

    def forward(self, x: Tensor) -> Tensor:
        """The fused map alone."""
        return self.compute(x)[0]


class PyramidNetwork(LastCall):
    """A feature pyramid: down level by level, and back up with lateral connections.

    Feature pyramid networks (Lin et al., CVPR 2017) with one output, at the finest level.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        num_levels: levels of the pyramid. The first has the input's size. Each next one has half
            of the size before, rounded up.
        base_channels: channels of the first level, doubled at each level. The way back up has this
            width too.

    Raises:
        ValueError: there is no level.
    """

    def __init__(
        self, in_channels: int, out_channels: int, num_levels: int = 3, base_channels: int = 64
    ) -> None:
        super().__init__()
        if num_levels < 1:
            raise ValueError(f"num_levels must be at least 1, not {num_levels}")
        widths = [base_channels * 2**level for level in range(num_levels)]
        self.stages = nn.ModuleList(
            conv_block(before, width, stride=1 if level == 0 else 2)
            for level, (before, width) in enumerate(pairwise([in_channels, *widths]))
        )
        self.laterals = nn.ModuleList(nn.Conv2d(width, base_channels, 1) for width in widths)
        self.head = nn.Conv2d(base_channels, out_channels, 3, padding=1)

    def compute(self, x: Tensor) -> tuple[Tensor, Found]:
        """[B, in, H, W] -> [B, out, H, W], and the levels as `get_features` gives them."""
        levels: list[Tensor] = []
        for stage in self.stages:
            x = call(stage, x)
            levels.append(x)
        sides = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        merged = [sides.pop()]  # [B, base, h, w], the finest first
        for side in reversed(sides):
            height, width = side.shape[-2:]
            merged.insert(0, side + resize(merged[0], (height, width)))
        return self.head(merged[0]), {"levels": levels, "merged": merged}

    def get_features(self, x: Tensor | None = None, *, merged: bool = False) -> list[Tensor]:
        """The levels of `x`, or of the last call's input (see `LastCall`), the finest first.

        Args:
            x: an input to compute; by default that of the last call.
            merged: give the levels on the way back up, each of which has seen all coarser ones.
                By default those on the way down.

        Returns:
            The i-th is [B, base * 2^i, ceil(H / 2^i), ceil(W / 2^i)], with base channels if merged.

        Raises:
            RuntimeError: no `x` is given and nothing has been called.
        """
        return self.found("merged" if merged else "levels", x)


class UNet(LastCall):
    """Encoder and decoder with a skip connection at every level (Ronneberger et al. 2015).

    Every level has two convolutions. Below the last one come two more at half its size and with
    twice its width. The output is linear by default and needs a loss with logits. `nn.BCELoss`
    needs probabilities, and so `activation="sigmoid"`. In contrast to the paper, convolutions are
    padded, so that the output has the input's size for any input.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        features: channels of each level, from the input's size downwards.
        activation: of the output: "none", "sigmoid", or "softmax" over its channels.

    Raises:
        ValueError: there is no level, or the activation is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        features: Sequence[int] = (64, 128, 256, 512),
        *,
        activation: str = "none",
    ) -> None:
        super().__init__()
        check_name("activation", activation, ACTIVATIONS)
        if not features:
            raise ValueError("features is empty: there must be a level")
        upwards = [2 * features[-1], *reversed(features)]
        self.encoder = nn.ModuleList(
            _two_blocks(before, width) for before, width in pairwise([in_channels, *features])
        )
        self.bottom = _two_blocks(features[-1], 2 * features[-1])
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(below, width, 2, stride=2) for below, width in pairwise(upwards)
        )
        self.decoder = nn.ModuleList(_two_blocks(2 * width, width) for width in upwards[1:])
        self.head = nn.Conv2d(features[0], out_channels, 1)
        self.activation = ACTIVATIONS[activation]()

    def compute(self, x: Tensor) -> tuple[Tensor, Found]:
        """[B, in, H, W] -> [B, out, H, W], and the maps of both ways, as the getters give them."""
        encoded: list[Tensor] = []
        for level in self.encoder:
            encoded.append(call(level, x))
            # A last odd row or column is kept, so that maps of one pixel can be pooled too.
            x = F.max_pool2d(encoded[-1], 2, ceil_mode=True)
        x = call(self.bottom, x)
        decoded: list[Tensor] = []
        for up, level, skip in zip(self.ups, self.decoder, reversed(encoded), strict=True):
            height, width = skip.shape[-2:]
            x = call(level, torch.cat([skip, up(x)[..., :height, :width]], dim=1))
            decoded.insert(0, x)
        return self.activation(self.head(x)), {"encoder": encoded, "decoder": decoded}

    def get_encoder_features(self, x: Tensor | None = None) -> list[Tensor]:
        """The maps of the skip connections, of `x` or of the last call's input (see `LastCall`).

        Returns:
            The i-th is [B, features[i], ceil(H / 2^i), ceil(W / 2^i)].

        Raises:
            RuntimeError: no `x` is given and nothing has been called.
        """
        return self.found("encoder", x)

    def get_decoder_features(self, x: Tensor | None = None) -> list[Tensor]:
        """The decoder's map of each level. Shapes, order and errors are as for the encoder."""
        return self.found("decoder", x)


def _two_blocks(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        *conv_block(in_channels, out_channels), *conv_block(out_channels, out_channels)
    )
