"""Let every place of the reference image look up the words that concern it before it is changed.

The strategies of `gated_fusion` see the text as one mean vector, which cannot say *where*. Here
each visual token attends to the text's tokens. Gate and delta are computed from the result.
Shapes: B batch, L visual tokens, T text tokens, D text width, Dv vision width, H heads.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from gatedcir.models.gated_fusion.gated import changed_by_words, masked_mean
from gatedcir.start import Aux, Start, zero

Text = Literal["tokens", "contextual", "mean"]


class AttentiveFusion(nn.Module):
    """image + alpha * gate * delta, gate and delta from the text that each visual token attends to.

    `text` chooses the tokens to attend to. "tokens" are the words' embeddings as they are.
    "contextual" are the same after one transformer layer over the text, so that a word knows which
    noun it belongs to. "mean" is the mean of the contextual words, the same for every place. It
    has as many parameters and as much arithmetic as "contextual", but its queries and keys have no
    effect. It is the control experiment that separates the effect of attention from that of size.

    Cross-attention: Vaswani et al., NeurIPS 2017; gate and delta as in `GatedFusion`.
    """

    has_gate = True

    def __init__(
        self,
        vision_width: int,
        text_width: int,
        *,
        text: Text = "contextual",
        heads: int = 4,
        alpha_init: float = 0.5,
        dropout: float = 0.1,
        start: Start = "seed",
    ) -> None:
        super().__init__()
        self.heads = heads
        self.pooled = text == "mean"
        self.context = (
            nn.Identity()
            if text == "tokens"
            else nn.TransformerEncoderLayer(
                text_width,
                heads,
                4 * text_width,
                dropout=dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
        )
        self.norm = nn.LayerNorm(vision_width)
        self.query = nn.Linear(vision_width, vision_width)
        self.key_value = nn.Linear(text_width, 2 * vision_width)
        self.gate = _mlp(2 * vision_width, vision_width, dropout)
        self.delta_net = _mlp(vision_width, vision_width, dropout)
        self.alpha = nn.Parameter(torch.tensor(float(alpha_init)))
        if start == "identity":
            zero(self.delta_net[-1])

    def forward(self, image: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Aux]:
        """Fuse [B, L, Dv] with [B, T, D], of which [B, T] counts.

        Returns:
            [B, L, Dv], and aux: `gate` [B, L, Dv] in [0, 1], `alpha` and `change` (scalars),
            `change_map` [B, L] and `delta` [B, L, Dv], and `text_attention` [B, L, T], the mean
            over the heads, rows of sum 1.
        """
        normed = self.norm(image)
        found, attention = self._attend(normed, self._in_context(text, text_mask), text_mask)
        gate = torch.sigmoid(self.gate(torch.cat([normed, found], dim=-1)))  # [B, L, Dv]
        delta = torch.tanh(self.delta_net(found))
        return changed_by_words(
            image, alpha=self.alpha, gate=gate, delta=delta, attention=attention
        )

    def _in_context(self, text: Tensor, text_mask: Tensor) -> Tensor:
        """The tokens to attend to: [B, T, D]."""
        if isinstance(self.context, nn.Identity):
            return text
        text = self.context(text, src_key_padding_mask=text_mask == 0)
        if self.pooled:
            text = masked_mean(text, text_mask)[:, None].expand_as(text)
        return text

    def _attend(self, image: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The text that each visual token attends to: [B, L, Dv], and the weights: [B, L, T]."""
        query = self.query(image).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, L, _]
        key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, T, _]
            for part in self.key_value(text).chunk(2, dim=-1)
        )
        scores = query @ key.transpose(-1, -2) * key.shape[-1] ** -0.5  # [B, H, L, T]
        scores = scores.masked_fill(text_mask[:, None, None] == 0, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        return (weights @ value).transpose(1, 2).flatten(2), weights.mean(1)


to_words = partial(AttentiveFusion, text="tokens")
to_contextual_words = partial(AttentiveFusion, text="contextual")
to_their_mean = partial(AttentiveFusion, text="mean")


def _mlp(inputs: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width)
    )
