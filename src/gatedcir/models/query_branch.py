"""A Q-Former that only encodes queries, while the model's own one encodes the images.

Shapes: B batch, Q query tokens, T text tokens, S = Q + T, K rows that are asked for, D width.
"""

import copy
from typing import Any

from torch import Tensor, nn

from gatedcir.models.backbone import Backbone
from gatedcir.models.qformer import qformer_pass

_OF_IMAGES = ("crossattention", "intermediate_query", "output_query")


class QueryBranch(nn.Module):
    """A copy of a backbone's Q-Former and text projection, for queries alone.

    The features of images stay as they are while it is trained.

    Args:
        backbone: what is copied.
        first: it reads the image in the fusion pass too. Else it holds only the layers of the text,
            for the second pass.
    """

    def __init__(self, backbone: Backbone, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.qformer = copied(backbone.qformer)
        if not first:
            for layer in self.qformer.encoder.layer:
                for name in _OF_IMAGES:
                    if hasattr(layer, name):
                        delattr(layer, name)
        self.text_projection = copy.deepcopy(backbone.text_projection)

    def query_pass(self, sequence: Tensor, *, image: Tensor, mask: Tensor, kept: slice) -> Tensor:
        """As `Backbone.query_pass`."""
        queries = kept.stop
        return qformer_pass(
            self.qformer, sequence, queries=queries, mask=mask, image=image, kept=kept
        )

    def text_pass(self, sequence: Tensor, *, mask: Tensor, kept: slice) -> Tensor:
        """As `Backbone.text_pass`."""
        return qformer_pass(self.qformer, sequence, queries=0, mask=mask, kept=kept)


def copied(qformer: Any) -> Any:
    """A copy with weights of its own, and the same config, which names the attention function."""
    return copy.deepcopy(qformer, {id(qformer.config): qformer.config})
