"""BLIP-2's image-text matching over a reference, a text and a candidate together.

It reads all tokens of a candidate, where the search compares features that were made without the
query. It is therefore better and much slower, and looks only at the best of a search.

Source: Candidate Set Re-ranking (Liu et al., TMLR 2024); the head is BLIP-2's.
Shapes: B pairs, L visual tokens, Q query tokens, T text tokens, D Q-Former width, Dv vision width.
"""

import copy

import torch
from torch import Tensor, nn

from gatedcir.models.backbone import Backbone
from gatedcir.models.qformer import qformer_pass, with_queries
from gatedcir.models.query_branch import copied


class _Unchanged(nn.Module):
    """In place of a layer's last part: gives what went into the layer's feed-forward half."""

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return residual


class Matcher(nn.Module):
    """A copy of the Q-Former, its query tokens and its matching head.

    Args:
        backbone: what is copied.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.qformer = copied(backbone.qformer)
        last = self.qformer.encoder.layer[-1]  # of which only the queries' outputs are read
        # A GPU runs all rows of the layer. So what words pass is left out, and not only deleted.
        last.intermediate, last.output = nn.Identity(), _Unchanged()
        self.query_tokens = nn.Parameter(backbone.query_tokens.detach().clone())  # [1, Q, D]
        self.head = copy.deepcopy(backbone.itm_head).requires_grad_(True)  # D -> 2

    def forward(self, prompts: Tensor, words: Tensor, text_mask: Tensor, image: Tensor) -> Tensor:
        """How well candidates fit: the logit of "fits" minus that of "does not fit", [B].

        Args:
            prompts: [B, Q, D], the fusion pass' outputs for reference and text.
            words: [B, T, D], the text's embeddings at their positions.
            text_mask: [B, T].
            image: [B, L, Dv], the candidates' tokens.
        """
        queries = self.query_tokens.expand(len(prompts), -1, -1)
        count = queries.shape[1]
        mask = with_queries(text_mask, 2 * count)
        sequence = torch.cat([queries, prompts, words], 1)  # [B, 2 Q + T, D]
        hidden = qformer_pass(
            self.qformer, sequence, queries=count, mask=mask, image=image, kept=slice(0, count)
        )
        with torch.autocast(hidden.device.type, enabled=False):
            wrong, right = self.head(hidden.float()).mean(1).unbind(-1)
        return right - wrong
