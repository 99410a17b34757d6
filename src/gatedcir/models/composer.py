"""A reference image and a text -> a query; an image -> its target features.

The one place where both are encoded: training, evaluation, submission and pictures call
`encode_query` and `encode_target`. Shapes: B batch, L visual tokens, N layers, Q query tokens,
T text tokens, D Q-Former width, Dv vision width, E embedding width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedcir.models.backbone import Backbone
from gatedcir.models.gated_fusion import Aux, NoFusion
from gatedcir.models.text import Tokens

LAYERS = (-1,)  # blocks of the vision tower whose outputs are read

Visual = Tensor | list[Tensor]
"""An image batch: pixels [B, 3, H, W], or what `levels` makes of them, one [B, L, Dv] a layer."""


class Encoded(NamedTuple):
    """What one training step needs of a batch; all features have norm 1."""

    query: Tensor  # [B, E], reference and text
    text: Tensor  # [B, E], prompts and text without the image
    targets: Tensor  # [B, Q, E]
    fusion_mean: Tensor  # [B, D], mean of the fusion pass' outputs
    prompt_mean: Tensor  # [D], mean of the prompts, detached
    aux: Aux  # the fusion's gate and figures


class ComposedRetriever(nn.Module):
    """Composed image retrieval with the Q-Former and learned sentence-level prompts.

    SPRC (Bai et al., ICLR 2024), with a fusion of text into the reference's visual tokens in front
    of the Q-Former. With `NoFusion` it is the published model.
    """

    def __init__(self, backbone: Backbone, *, fusion: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.fusion = NoFusion() if fusion is None else fusion
        std = backbone.config.qformer_config.initializer_range
        self.prompt_tokens = nn.Parameter(torch.randn_like(backbone.query_tokens) * std)
        self.temp = nn.Parameter(torch.tensor(0.07))

    @property
    def embedding_width(self) -> int:
        """E."""
        return self.backbone.vision_projection.out_features

    def levels(self, visual: Visual) -> list[Tensor]:
        """The vision tower's outputs that the model reads, before its last LayerNorm.

        Under autocast they are of its type, though the tower's residual stream is not: what is
        computed on the fly then equals what was cached in half the memory.
        """
        if not isinstance(visual, Tensor):
            return visual
        found = self.backbone.vision_levels(visual, LAYERS)
        kind = visual.device.type
        if torch.is_autocast_enabled(kind):
            found = [level.to(torch.get_autocast_dtype(kind)) for level in found]
        return found

    def visual_tokens(self, visual: Visual) -> Tensor:
        """[B, L, Dv], normalised, in the Q-Former's precision."""
        level = self.levels(visual)[-1]
        return self.backbone.normalise(level.to(self.temp.dtype))

    def encode_target(self, visual: Visual) -> Tensor:
        """Target features of B images: [B, Q, E], each of norm 1."""
        tokens = self.visual_tokens(visual)
        queries = self.backbone.query_tokens.expand(len(tokens), -1, -1)
        hidden = self.backbone.query_pass(queries, image=tokens)  # [B, Q, D]
        return _project(self.backbone.vision_projection, hidden)

    def encode_query(self, visual: Visual, text: Tokens) -> tuple[Tensor, Aux]:
        """Query features of B reference images and texts.

        Returns:
            [B, E] of norm 1, and aux: the fusion's, and `prompts` [B, Q, D], the outputs of the
            fusion pass at its query tokens.
        """
        image, aux = self.fusion(
            self.visual_tokens(visual),
            self.backbone.embed_text_normalised(text.input_ids),
            text.attention_mask,
        )
        words = self.backbone.embed_text(text.input_ids)  # [B, T, D]
        queries = self.backbone.query_tokens.expand(len(words), -1, -1)  # [B, Q, D]
        mask = _with_queries(text.attention_mask, queries.shape[1])
        fused = self.backbone.query_pass(torch.cat([queries, words], 1), image=image, mask=mask)
        prompts = fused[:, : queries.shape[1]]
        second = self.backbone.text_pass(torch.cat([prompts, words], 1), mask=mask)
        # The text's [CLS] stands behind the Q prompts.
        query = _project(self.backbone.text_projection, second[:, queries.shape[1]])
        return query, {**aux, "prompts": prompts}

    def encode_text(self, text: Tokens) -> Tensor:
        """Features of B texts behind the learned prompts, without an image: [B, E] of norm 1."""
        count = self.prompt_tokens.shape[1]
        first, rest = text.input_ids[:, :1], text.input_ids[:, 1:]
        positions = self.backbone.embeddings.position_embeddings.weight[1 : count + 1]
        prompts = (self.prompt_tokens + positions).expand(len(first), -1, -1)  # [B, Q, D]
        sequence = torch.cat(
            [
                self.backbone.embed_text(first),
                prompts,
                self.backbone.embed_text(rest, first_position=count + 1),
            ],
            dim=1,
        )  # [B, Q + T, D]
        mask = _with_queries(text.attention_mask, count)
        hidden = self.backbone.text_pass(sequence, mask=mask)
        return _project(self.backbone.text_projection, hidden[:, 0])

    def forward(self, reference: Visual, target: Visual, text: Tokens) -> Encoded:
        """All features of a batch of triplets."""
        query, aux = self.encode_query(reference, text)
        return Encoded(
            query=query,
            text=self.encode_text(text),
            targets=self.encode_target(target),
            fusion_mean=aux.pop("prompts").float().mean(1),
            prompt_mean=self.prompt_tokens.detach().mean((0, 1)),
            aux=aux,
        )


def _project(head: nn.Module, hidden: Tensor) -> Tensor:
    """[..., D] -> [..., E] of norm 1, in float32: half precision would blur close ranks."""
    with torch.autocast(hidden.device.type, enabled=False):
        return F.normalize(head(hidden.float()), dim=-1)


def _with_queries(text_mask: Tensor, count: int) -> Tensor:
    """The mask of Q tokens that always count and the text: [B, T] -> [B, Q + T]."""
    return F.pad(text_mask, (count, 0), value=1)
