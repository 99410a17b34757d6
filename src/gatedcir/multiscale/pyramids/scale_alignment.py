"""Deformable convolution, and scales aligned by it.

Shapes: B batch, C channels, K = k * k taps of the kernel, H and W height and width of a map.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedcir.multiscale.pyramids.scale_integration import ScaleIntegration, weigh
from gatedcir.start import Aux, Start, zero


class DeformableConv2d(nn.Module):
    """A convolution whose taps are moved by offsets that are learned from the map.

    This is version 1, without modulation (Dai et al., ICCV 2017). The offsets start at zero, which
    gives the plain convolution with zeros beyond the border. The stride is 1, so the map keeps its
    size.

    Raises:
        ValueError: an even kernel size.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size} is not odd: the map would be shifted")
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding)
        self.offsets = nn.Conv2d(in_channels, 2 * kernel_size**2, kernel_size, padding=padding)
        zero(self.offsets)

    def forward(self, maps: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]. Offsets are K pairs in pixels, down first, then right."""
        (height, width), device = maps.shape[-2:], maps.device
        # In half precision the error of a position is a good part of a pixel.
        dtype = torch.promote_types(maps.dtype, torch.float32)
        radius = self.conv.kernel_size[0] // 2
        taps = torch.arange(-radius, radius + 1, device=device, dtype=dtype)
        down, right = torch.meshgrid(taps, taps, indexing="ij")  # each [k, k]
        rows = torch.arange(height, device=device, dtype=dtype)[:, None]  # [H, 1]
        columns = torch.arange(width, device=device, dtype=dtype)  # [W]
        moved = self.offsets(maps).to(dtype).unflatten(1, (-1, 2))  # [B, K, 2, H, W]
        y = moved[:, :, 0] + down.flatten()[:, None, None] + rows  # [B, K, H, W]
        x = moved[:, :, 1] + right.flatten()[:, None, None] + columns
        # grid_sample counts from the picture's edges, -1 and 1, half a pixel beyond the centers.
        grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
        sampled = F.grid_sample(maps.to(dtype), grid.flatten(1, 2), align_corners=False).unflatten(
            2, (-1, height)
        )  # [B, C, K, H, W]
        patches = sampled.to(maps.dtype).flatten(1, 2)  # [B, C K, H, W]
        return F.conv2d(patches, self.conv.weight.flatten(1)[..., None, None], self.conv.bias)


class DeformableScaleIntegration(ScaleIntegration):
    """Add to the 1.0x map the sum of all scales, each aligned by a deformable 3x3 convolution.

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
        self.align_conv = DeformableConv2d(channels, channels)
        if start == "identity":
            zero(self.align_conv.conv)

    def update(self, maps: list[Tensor], weights: Tensor | None = None) -> tuple[Tensor, Aux]:
        """As in `ScaleIntegration`. Aux is empty."""
        aligned = [self.align_conv(one) for one in weigh(maps, weights)]
        return torch.stack(aligned).sum(0), {}
