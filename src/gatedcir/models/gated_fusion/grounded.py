"""Find the place that the text speaks of before it is changed.

`attentive` decides at each place alone: the place looks up words, and nothing tells it what lies
next to it or which of the words concern another thing. Here the places first talk to one another
and to the words, as the object queries of a detector do. Gate and delta are computed from what
they then know.
Shapes: B batch, L visual tokens, T text tokens, D text width, Dv vision width.
"""

from functools import partial

import torch
from torch import Tensor, nn

from gatedcir.models.gated_fusion.gated import changed_by_words, masked_mean
from gatedcir.start import Aux, Start, zero


class GroundedFusion(nn.Module):
    """image + alpha * gate * delta, gate and delta from a transformer decoder over the places.

    Each layer lets the places attend to one another, then to the words, and ends with a
    feed-forward layer (Vaswani et al., NeurIPS 2017; over an image's places: Carion et al., ECCV
    2020). It works in the text's width, which is the smaller one in BLIP-2.

    With `pooled` every word is replaced by the mean of the words. This is the control experiment:
    as large, as slow, and unable to tell the words apart.
    """

    has_gate = True

    def __init__(
        self,
        vision_width: int,
        text_width: int,
        *,
        pooled: bool = False,
        layers: int = 2,
        heads: int = 4,
        alpha_init: float = 0.5,
        dropout: float = 0.1,
        start: Start = "seed",
    ) -> None:
        super().__init__()
        self.pooled = pooled
        self.norm = nn.LayerNorm(vision_width)
        self.enter = nn.Linear(vision_width, text_width)
        self.layers = nn.ModuleList(_Layer(text_width, heads, dropout) for _ in range(layers))
        self.leave = nn.LayerNorm(text_width)
        self.gate = nn.Linear(text_width, vision_width)
        self.delta_net = nn.Sequential(
            nn.Linear(text_width, text_width), nn.GELU(), nn.Linear(text_width, vision_width)
        )
        self.alpha = nn.Parameter(torch.tensor(float(alpha_init)))
        if start == "identity":
            zero(self.delta_net[-1])

    def forward(self, image: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Aux]:
        """Fuse [B, L, Dv] with [B, T, D], of which [B, T] counts.

        Returns:
            [B, L, Dv], and aux as that of `AttentiveFusion.forward`. `text_attention` is the last
            layer's.
        """
        places = self.enter(self.norm(image))  # [B, L, D]
        if self.pooled:
            text = masked_mean(text, text_mask)[:, None].expand_as(text)
        padding = text_mask == 0
        for layer in self.layers:
            places, attention = layer(places, text, padding)
        places = self.leave(places)
        gate = torch.sigmoid(self.gate(places))  # [B, L, Dv]
        delta = torch.tanh(self.delta_net(places))
        return changed_by_words(
            image, alpha=self.alpha, gate=gate, delta=delta, attention=attention
        )


class _Layer(nn.Module):
    """A layer of a transformer decoder, LayerNorm first, that also gives its look at the words."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.to_places, self.to_words = (
            nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(2)
        )
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, places: Tensor, words: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, D], [B, T, D], [B, T] -> [B, L, D], and the attention to the words [B, L, T]."""
        normed = self.norms[0](places)
        found, _ = self.to_places(normed, normed, normed, need_weights=False)
        places = places + self.dropout(found)
        normed = self.norms[1](places)
        found, attention = self.to_words(normed, words, words, key_padding_mask=padding)
        places = places + self.dropout(found)
        return places + self.dropout(self.feed_forward(self.norms[2](places))), attention


to_mean_text = partial(GroundedFusion, pooled=True)
