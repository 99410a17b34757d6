"""One type for a batch of images: pixels, or features of the vision tower.

Shapes: B batch, L visual tokens, Dv vision width, H x W pixels.
"""

import torch
from torch import Tensor

Visual = Tensor | list[Tensor]
"""A batch of images. It is pixels [B, 3, H, W], or one feature map [B, L, Dv] for each layer that
is read at the first scale, then at the next. Without the leading B it is a single image."""


def take(images: Visual, places: Tensor) -> Visual:
    """The images at some places of a batch, copied."""
    if isinstance(images, Tensor):
        return images.index_select(0, places.to(images.device))
    return [level.index_select(0, places.to(level.device)) for level in images]


def move(images: Visual, device: torch.device) -> Visual:
    """A batch of images on a device."""
    if isinstance(images, Tensor):
        return images.to(device, non_blocking=True)
    return [level.to(device, non_blocking=True) for level in images]
