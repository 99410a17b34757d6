"""Several fusions of one kind, one after the other."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gatedcir.models.gated_fusion.gated import tokens_and_aux
from gatedcir.start import Aux


class FusionBlocks(nn.Module):
    """Each block changes what the one before it gave. All read the same text.

    Args:
        blocks: two or more fusions, which give the same kind of aux.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.has_gate = bool(getattr(blocks[0], "has_gate", False))

    def forward(self, image: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Aux]:
        """Shapes as in `TextFusion.forward`.

        aux holds the means over the blocks, except that `change` and `change_map` are those of
        all blocks together.
        """
        fused, found = image, []
        for block in self.blocks:
            fused, aux = tokens_and_aux(block, fused, text, text_mask)
            found.append(aux)
        means = {name: torch.stack([aux[name] for aux in found]).mean(0) for name in found[0]}
        if "change" in means:
            total = (fused - image).abs().detach()
            means |= {"change": total.mean(), "change_map": total.mean(-1)}
        return fused, means
