"""The Q-Former's pass, without arithmetic whose results are not used.

The pass of transformers computes every row of every layer. Here the weights and the numbers are
the same, with less work. The last layer computes only the rows that are asked for. Padded words
have no rows. The projections of an image's tokens are applied to the queries instead, where these
are fewer. GPUs take transformers' pass, because the many small kernels that save arithmetic take
longer there than the arithmetic (docs/performance.md).
Legend of shapes: B batch, Q query tokens, T text tokens, S = Q + T, K rows that are asked for,
N rows that count, L visual tokens, H heads, D width, Dv vision width.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedcir.models.dropout import dropout


def qformer_pass(
    qformer: Any,  # a Blip2QFormerModel
    sequence: Tensor,
    *,
    queries: int,
    mask: Tensor | None = None,
    image: Tensor | None = None,
    kept: slice = slice(None),
) -> Tensor:
    """A sequence through the Q-Former.

    Args:
        qformer: holds the weights.
        sequence: [B, S, D], embeddings that are not yet normalised.
        queries: Q. The first Q tokens look at the image and have their own feed-forward layers. The
            others use those of the text.
        mask: [B, S], 1 where a token counts; queries always count. None when all do.
        image: [B, L, Dv]; the cross-attention layers attend to it.
        kept: tokens whose outputs are needed: only queries or only words, all of which count. By
            default all tokens.

    Returns:
        [B, K, D]. The values are arbitrary where a token does not count.
    """
    if not saves_arithmetic(sequence.device):
        found = qformer(
            query_embeds=sequence,
            query_length=queries,
            attention_mask=mask,
            encoder_hidden_states=image,
        )
        return found.last_hidden_state[:, kept]
    hidden = _drop(qformer.dropout, qformer.layernorm(sequence))
    if image is not None:
        image = _for_products(image.to(hidden.dtype))
    layout = _Layout.of(hidden, queries, mask)
    rows = layout.rows_of(hidden)
    *layers, last = qformer.encoder.layer
    for layer in layers:
        rows = _layer(layer, rows, layout, asked=rows, part=layout, image=image)
    asked, part = rows, layout
    if kept != slice(None):
        wanted = layout.spread(rows)[:, kept]
        part = layout.part(kept, wanted.shape[1])
        asked = part.rows_of(wanted)
    return part.spread(_layer(last, rows, layout, asked=asked, part=part, image=image))


def saves_arithmetic(device: torch.device) -> bool:
    """Whether a pass leaves out what nobody reads: where that takes less time."""
    return device.type == "cpu"


@dataclass(frozen=True)
class _Layout:
    """How rows [N, D] lie: the queries of all B sequences, then the words that count."""

    batch: int
    queries: int
    words: int
    mask: Tensor | None  # [B, 1, 1, S], added to scores: hugely negative where no token counts
    index: Tensor | None = None  # the words that count among all B * T; None for all of them

    @classmethod
    def of(cls, hidden: Tensor, queries: int, mask: Tensor | None) -> "_Layout":
        """The layout of [B, S, D]."""
        batch, length, _ = hidden.shape
        if mask is None:
            return cls(batch, queries, length - queries, None)
        index = None
        if not torch.compiler.is_compiling():  # it would compile again for each count of rows
            index = mask[:, queries:].flatten().nonzero()[:, 0]
        added = (1 - mask[:, None, None]).float() * torch.finfo(torch.float32).min
        return cls(batch, queries, length - queries, added, index)

    def part(self, kept: slice, count: int) -> "_Layout":
        """The layout of `count` queries or words of each sequence, all of which count."""
        inside = kept.stop <= self.queries
        assert inside or kept.start >= self.queries, "queries and words are kept apart"
        return _Layout(self.batch, count if inside else 0, 0 if inside else count, None)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of queries [B * Q, D], and of words."""
        count = self.batch * self.queries
        return rows[:count], rows[count:]

    def rows_of(self, hidden: Tensor) -> Tensor:
        """[B, S, D] -> [N, D]."""
        words = hidden[:, self.queries :].flatten(0, 1)
        if self.index is not None:
            words = _Take.apply(words, self.index)
        if not self.queries:
            return words
        return torch.cat([hidden[:, : self.queries].flatten(0, 1), words])

    def spread(self, rows: Tensor) -> Tensor:
        """[N, D] -> [B, S, D], zero where no row is."""
        queries, words = self.split(rows)
        if self.index is not None:
            empty = words.new_zeros(self.batch * self.words, words.shape[1])
            words = empty.index_copy(0, self.index, words)
        parts = [
            part.unflatten(0, (self.batch, count))
            for part, count in ((queries, self.queries), (words, self.words))
            if count
        ]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _layer(
    layer: Any,  # a Blip2QFormerLayer
    rows: Tensor,
    layout: _Layout,
    *,
    asked: Tensor,
    part: _Layout,
    image: Tensor | None,
) -> Tensor:
    """The output of one layer for the `asked` ones among rows [N, D]. `part` is their layout."""
    attention = layer.attention.attention
    seen = _for_products(rows)
    key, value = (layout.spread(linear(seen)) for linear in (attention.key, attention.value))
    query = part.spread(attention.query(seen if asked is rows else asked))
    found = _attend(attention, query, key, value, layout.mask)
    asked = _add(layer.attention.output, part.rows_of(found), asked)
    queries, words = part.split(asked)
    outputs = []
    if part.queries:
        if layer.has_cross_attention:
            assert image is not None
            queries = queries.unflatten(0, (part.batch, part.queries))
            queries = _look(layer.crossattention, queries, image).flatten(0, 1)
        outputs.append(_add(layer.output_query, layer.intermediate_query(queries), queries))
    if part.words:
        outputs.append(_add(layer.output, layer.intermediate(words), words))
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def _look(
    cross: Any,  # a Blip2QFormerAttention
    queries: Tensor,
    image: Tensor,
) -> Tensor:
    """Cross-attention of [B, Q, D] to an image [B, L, Dv].

    q . (W x) = (W' q) . x, and the weighted mean of W x is W times that of x. Without the fused
    kernel, the projections of keys and values are therefore applied to the queries where that is
    less work.
    """
    attention = cross.attention
    batch, count, width = queries.shape
    heads, length = attention.num_attention_heads, image.shape[1]
    more = count * width + heads * count * length > length * width
    if more or attention.config._attn_implementation == "sdpa":
        return cross(queries, encoder_hidden_states=image)
    key, value = (x.weight.unflatten(0, (heads, -1)) for x in (attention.key, attention.value))
    query = attention.query(queries).unflatten(-1, (heads, -1))  # [B, Q, H, D / H]
    # The key bias adds the same number to all scores of a query, so the softmax cancels it. It is
    # kept because DDP expects a gradient (here zero) for every parameter.
    shift = (query * attention.key.bias.unflatten(0, (heads, -1))).sum(-1, keepdim=True)
    query = query.permute(2, 0, 1, 3).flatten(1, 2) @ key  # [H, B * Q, Dv]
    query = query.unflatten(1, (batch, count)).transpose(0, 1).flatten(1, 2)  # [B, H * Q, Dv]
    scores = _Scores.apply(query, image) + shift.transpose(1, 2).flatten(1, 2)  # [B, H * Q, L]
    weights = (scores * attention.scaling).softmax(-1)
    weights = dropout(weights, attention.attention_dropout, training=attention.training)
    found = (weights @ image).unflatten(1, (heads, count)).transpose(0, 1)  # [H, B, Q, Dv]
    found = found.flatten(1, 2) @ value.transpose(1, 2)  # [H, B * Q, D / H]
    found = found.unflatten(1, (batch, count)).permute(1, 2, 0, 3)  # [B, Q, H, D / H]
    # After dropout the sum of the weights is no longer 1.
    sums = weights.sum(-1).unflatten(1, (heads, count)).transpose(1, 2)[..., None]
    found = found + sums * attention.value.bias.unflatten(0, (heads, -1))
    return _add(cross.output, found.flatten(2), queries)


def _attend(
    attention: Any,  # a Blip2QFormerMultiHeadAttention
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Scaled dot-product attention of [B, K, D] to [B, S, D], of which [B, 1, 1, S] counts."""
    heads = (x.unflatten(-1, (attention.num_attention_heads, -1)) for x in (query, key, value))
    query, key, value = (x.transpose(1, 2) for x in heads)  # [B, heads, K or S, _]
    share, training = attention.attention_dropout, attention.training
    if attention.config._attn_implementation == "sdpa":
        dropped = share if training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, mask, dropped)
    else:
        # In float32, where rows of odd length take a fraction of the time.
        scores = (query @ key.transpose(2, 3)).float()
        none = scores.new_zeros(()) if mask is None else mask
        weights = torch.add(none, scores, alpha=attention.scaling).softmax(-1).to(value.dtype)
        found = dropout(weights, share, training=training) @ value
    return found.transpose(1, 2).flatten(2)


def _drop(module: nn.Dropout, hidden: Tensor) -> Tensor:
    """What a dropout of transformers' does, from fewer random numbers."""
    return dropout(hidden, module.p, training=module.training)


def _add(
    part: Any,  # a Blip2QFormerSelfOutput or Blip2QFormerOutput
    hidden: Tensor,
    residual: Tensor,
) -> Tensor:
    """The last part of an attention or feed-forward half: project, drop, add, normalise."""
    return part.LayerNorm(_drop(part.dropout, part.dense(hidden)) + residual)


def _for_products(x: Tensor) -> Tensor:
    """A tensor in autocast's precision, for several products that would each cast it."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class _Scores(torch.autograd.Function):
    """Products of queries [B, N, Dv] and an image [B, L, Dv]: [B, N, L].

    torch gives the image's gradient transposed, and adding it to others is slow.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, image: Tensor) -> Tensor:
        """The products."""
        ctx.save_for_backward(query, image)
        return query @ image.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients in the layout of their tensors."""
        query, image = ctx.saved_tensors
        return gradient @ image, gradient.transpose(1, 2) @ query


class _Take(torch.autograd.Function):
    """Rows [N, D] of [M, D], none twice. torch's own indexing adds the gradient row by row."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, index: Tensor) -> Tensor:
        """source[index]."""
        ctx.save_for_backward(index)
        ctx.length = len(source)
        return source.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Put the gradient back at the rows' places."""
        [index] = ctx.saved_tensors
        empty = gradient.new_zeros(ctx.length, gradient.shape[1])
        return empty.index_copy_(0, index, gradient), None


def project(head: nn.Module, hidden: Tensor) -> Tensor:
    """[..., D] -> [..., E] of norm 1, in float32, because half precision blurs close ranks."""
    with torch.autocast(hidden.device.type, enabled=False):
        return F.normalize(head(hidden.float()), dim=-1)


def with_queries(text_mask: Tensor, count: int) -> Tensor:
    """The mask of Q tokens that always count and the text: [B, T] -> [B, Q + T]."""
    return F.pad(text_mask, (count, 0), value=1)
