"""Multi-scale networks over the grid of visual tokens, between vision tower and fusion.

A neck maps tokens [B, L, Dv] -> (tokens [B, L, Dv], aux). It reads the patches as a map
[B, Dv, H, H] of any side from 2. The image's own token passes unchanged. Shapes: B batch,
L = 1 + H * H visual tokens, Dv vision width, S scales.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from gatedcir.multiscale.feature_fusion import Fused
from gatedcir.multiscale.maps import to_map, to_tokens
from gatedcir.multiscale.networks import MultiScaleModel, PyramidNetwork, UNet, conv_block
from gatedcir.multiscale.pooling import (
    MultiScalePooling,
    PyramidPooling,
    SpatialPyramidPooling,
)

GRID_SCALES = (1.0, 0.5, 0.25)  # of the multi-scale neck, by default
MAX_HIDDEN = 128  # channels inside a neck; 3x3 kernels of the tower's 1408 would be huge


def _hidden(width: int) -> int:
    return max(1, min(width // 4, MAX_HIDDEN))


class NoNeck(nn.Module):
    """The tokens as they are."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, tokens: Tensor) -> Fused:
        """[B, L, Dv] -> the same, and an empty aux."""
        return tokens, {}


class GridNeck(nn.Module):
    """The base class of the necks: from tokens to a map and back."""

    def forward(self, tokens: Tensor) -> Fused:
        """[B, 1 + H * H, Dv] -> the same shape, the first token unchanged, and aux.

        Raises:
            ValueError: the patches do not form a square.
        """
        cls_token, patches = to_map(tokens)
        changed, aux = self.change(patches)
        return to_tokens(cls_token, changed), aux

    @abstractmethod
    def change(self, patches: Tensor) -> Fused:
        """[B, Dv, H, H] -> the same shape, and aux."""


class PyramidPoolingNeck(GridNeck):
    """Averages over 1, 2, 3 and 6 bins a side, added to every patch (`PyramidPooling`)."""

    def __init__(self, *, width: int, pool_sizes: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.pooling = PyramidPooling(width, width, pool_sizes)

    def change(self, patches: Tensor) -> Fused:
        """See `GridNeck`."""
        return self.pooling(patches), {}


class MultiScalePoolingNeck(GridNeck):
    """Every patch with its surroundings in windows of several sizes (`MultiScalePooling`)."""

    def __init__(
        self, *, width: int, pool_sizes: Sequence[int] = (1, 2, 3, 6), pool_type: str = "avg"
    ) -> None:
        super().__init__()
        hidden = _hidden(width)
        self.network = nn.Sequential(
            nn.Conv2d(width, hidden, 1),
            nn.ReLU(),
            MultiScalePooling(pool_sizes, pool_type),
            nn.Conv2d(hidden * len(pool_sizes), width, 1),
        )

    def change(self, patches: Tensor) -> Fused:
        """See `GridNeck`."""
        return self.network(patches), {}


class SpatialPyramidPoolingNeck(GridNeck):
    """A summary of the whole image, added to every patch (`SpatialPyramidPooling`)."""

    def __init__(self, *, width: int, num_levels: int = 3, pool_type: str = "max") -> None:
        super().__init__()
        hidden = _hidden(width)
        pooling = SpatialPyramidPooling(num_levels, pool_type)
        bins = sum(4**level for level in range(num_levels))
        self.summary = nn.Sequential(
            nn.Conv2d(width, hidden, 1), nn.ReLU(), pooling, nn.Linear(hidden * bins, width)
        )

    def change(self, patches: Tensor) -> Fused:
        """See `GridNeck`."""
        return patches + self.summary(patches)[..., None, None], {}


class UNetNeck(GridNeck):
    """A `UNet`. With two levels it reads the grid, its half, and a quarter at the bottom."""

    def __init__(self, *, width: int, num_levels: int = 2) -> None:
        super().__init__()
        features = [_hidden(width) * 2**level for level in range(num_levels)]
        self.network = UNet(width, width, features)

    def change(self, patches: Tensor) -> Fused:
        """See `GridNeck`."""
        return self.network.compute(patches)[0], {}


class PyramidNeck(GridNeck):
    """A `PyramidNetwork`."""

    def __init__(self, *, width: int, num_levels: int = 3) -> None:
        super().__init__()
        self.network = PyramidNetwork(width, width, num_levels, _hidden(width))

    def change(self, patches: Tensor) -> Fused:
        """See `GridNeck`."""
        return self.network.compute(patches)[0], {}


class MultiScaleNeck(GridNeck):
    """One small convolution applied to the grid at several scales, fused by attention.

    aux holds `neck_weights` [B, S, H, H]: how much each patch listens to each scale.
    """

    def __init__(self, *, width: int, scales: Sequence[float] = GRID_SCALES) -> None:
        super().__init__()
        hidden = _hidden(width)
        base = nn.Sequential(nn.Conv2d(width, hidden, 1), *conv_block(hidden, hidden))
        self.network = MultiScaleModel(scales, base, "attention")
        self.widen = nn.Conv2d(hidden, width, 1)

    def change(self, patches: Tensor) -> Fused:
        """See `GridNeck`."""
        fused, aux = self.network.compute(patches)
        return self.widen(fused), {"neck_weights": aux["weights"]}


NECKS: dict[str, Callable[..., nn.Module]] = {
    "none": NoNeck,
    "pyramid-pooling": PyramidPoolingNeck,
    "unet": UNetNeck,
    "pyramid": PyramidNeck,
    "multi-scale": MultiScaleNeck,
    "spatial-pyramid-pooling": SpatialPyramidPoolingNeck,
    "multi-scale-pooling": MultiScalePoolingNeck,
}
