"""From the levels of a pyramid to one map, for a prediction at every pixel.

Shapes: B batch, C_i channels of level i, h and w of the finest level.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from gatedcir.multiscale.maps import resize
from gatedcir.multiscale.networks import conv_block
from gatedcir.multiscale.recompute import call


class DecoderModule(nn.Module):
    """Coarse to fine: enlarge, put the next level next to it, and mix by a 3x3 convolution.

    This is the decoder of a U-Net (Ronneberger et al. 2015) with one convolution for each level.
    Its map has the size of the finest level. For a prediction as large as the image, resize it.

    Args:
        dims: channels of each level, fine to coarse.

    >>> decoder = DecoderModule(dims=[8, 16, 32])
    >>> features = [torch.randn(1, 8 * 2**i, 16 // 2**i, 16 // 2**i) for i in range(3)]
    >>> decoder(features).shape
    torch.Size([1, 8, 16, 16])

    Raises:
        ValueError: there is no level.
    """

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        if not dims:
            raise ValueError("dims is empty: there must be a level to decode")
        self.dims = list(dims)
        self.steps = nn.ModuleList(
            conv_block(fine + coarse, fine) for fine, coarse in pairwise(self.dims)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """One [B, C_i, h_i, w_i] a level, fine to coarse -> [B, C_0, h, w].

        Raises:
            ValueError: the features are not as many, or not as wide, as `dims` says.
        """
        if (widths := [one.shape[1] for one in features]) != self.dims:
            raise ValueError(f"features of {widths} channels given, {self.dims} expected")
        *finer, decoded = features
        for step, level in zip(reversed(self.steps), reversed(finer), strict=True):
            height, width = level.shape[-2:]
            decoded = call(step, torch.cat([level, resize(decoded, (height, width))], dim=1))
        return decoded
