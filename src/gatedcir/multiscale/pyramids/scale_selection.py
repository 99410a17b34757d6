"""Choose for each image the input scales that are worth their cost.

Shapes: B batch, S scales.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from gatedcir.multiscale.scale_sizes import check_scales


class AdaptiveScaleSelector(nn.Module):
    """From an image's mean color to the scales at which it is read. 1.0x always stays.

    The weights are 0 or 1. Their gradient is that of the importance behind them (straight-through,
    Bengio et al. 2013), so that a scale which is left out can still come back in training.

    Args:
        scales: coarse to fine.
        in_channels: of the image.
        threshold: a scale counts if its importance, in (0, 1), is above this value.

    Raises:
        ValueError: scales that `check_scales` refuses, or a threshold outside [0, 1).
    """

    def __init__(
        self,
        scales: Sequence[float] = (0.5, 1.0, 1.5),
        *,
        in_channels: int = 3,
        threshold: float = 0.5,
    ) -> None:
        super().__init__()
        self.scales = check_scales(scales, at_least=2)
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold {threshold} is not in [0, 1)")
        self.threshold = threshold
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(in_channels, len(self.scales)),
            nn.Sigmoid(),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, 3, H, W] -> weights [B, S], each 0 or 1, and aux: `scale_importance` [B, S]."""
        importance = self.layers(images)
        hard = (importance > self.threshold).to(importance.dtype)
        # The difference is exactly zero, so a scale that is left out gets exactly zero.
        weights = hard + (importance - importance.detach())
        fixed = weights.new_zeros(len(self.scales), dtype=bool)
        fixed[self.scales.index(1.0)] = True
        return weights.masked_fill(fixed, 1.0), {"scale_importance": importance}

    def active_scales(self, images: Tensor) -> list[list[float]]:
        """The scales at which each image is read, coarse to fine."""
        weights, _ = self(images)
        return [
            [scale for scale, on in zip(self.scales, row, strict=True) if on]
            for row in (weights > 0).tolist()
        ]
