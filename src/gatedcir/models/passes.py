"""The passes of the Q-Former that make features, alone and two as one.

A training step has four passes. The fusion pass and that of the targets have the same weights, and
so have the second pass and that of the text alone. No pass of a pair waits for the other. As one
pass of twice as many sequences they take half as many kernels and sums of gradients.
Legend of shapes: B batch, Q query tokens, T text tokens, L visual tokens, D Q-Former width,
Dv vision width, E embedding width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gatedcir.models import qformer
from gatedcir.models.backbone import Backbone
from gatedcir.models.qformer import project, with_queries
from gatedcir.models.query_branch import QueryBranch

Reader = Backbone | QueryBranch


class Passed(NamedTuple):
    """What B triplets give."""

    prompts: Tensor
    """[B, Q, D], the outputs of the fusion pass at its queries."""
    query: Tensor
    """[B, E] of norm 1."""
    text: Tensor
    """[B, E] of norm 1, of the text alone."""
    targets: Tensor
    """[B, Q, E], each of norm 1."""


def four_passes(
    backbone: Backbone,
    branch: QueryBranch | None,
    words: Tensor,
    text_mask: Tensor,
    *,
    alone: Tensor,
    image: Tensor,
    targets: Tensor,
) -> Passed:
    """The passes of a training step. Two with the same weights run as one.

    Args:
        backbone: encodes.
        branch: encodes the queries in its place, if there is one.
        words: [B, T, D] at their positions.
        text_mask: [B, T], 1 where a word counts.
        alone: [B, Q + T, D], the text with the learned prompts, of `with_prompts`.
        image: [B, L, Dv], the references after the fusion.
        targets: [B, L, Dv].
    """
    if branch is not None and branch.first:
        prompts = first_pass(backbone, branch, words, text_mask, image=image)
        hidden = target_pass(backbone, targets)
    else:
        prompts, hidden = fusion_and_target_pass(
            backbone, words, text_mask, image=image, targets=targets
        )
    second = torch.cat([prompts, words], 1)
    if branch is None:
        query, text = features_of_both(backbone, second, alone, text_mask)
    else:
        query = text_features(branch, second, text_mask)
        text = text_features(backbone, alone, text_mask)
    return Passed(prompts, query, text, project(backbone.vision_projection, hidden))


def first_pass(
    backbone: Backbone,
    branch: QueryBranch | None,
    words: Tensor,
    text_mask: Tensor,
    *,
    image: Tensor,
) -> Tensor:
    """The fusion pass of the backbone's queries. The branch reads, if it is made for it."""
    reader = branch if branch is not None and branch.first else backbone
    return fusion_pass(reader, backbone.query_tokens, words, text_mask, image=image)


def fusion_pass(
    reader: Reader, queries: Tensor, words: Tensor, text_mask: Tensor, *, image: Tensor
) -> Tensor:
    """Queries that read a text and an image: the outputs at the queries, [B, Q, D].

    Args:
        reader: holds the weights.
        queries: [1, Q, D].
        words: [B, T, D] at their positions.
        text_mask: [B, T], 1 where a word counts.
        image: [B, L, Dv].
    """
    count = queries.shape[1]
    sequence = torch.cat([queries.expand(words.shape[0], -1, -1), words], 1)
    mask = with_queries(text_mask, count)
    return reader.query_pass(sequence, image=image, mask=mask, kept=slice(0, count))


def target_pass(backbone: Backbone, image: Tensor) -> Tensor:
    """Queries that read an image [B, L, Dv] alone: [B, Q, D]."""
    queries = backbone.query_tokens.expand(image.shape[0], -1, -1)
    return backbone.query_pass(queries, image=image)


def fusion_and_target_pass(
    backbone: Backbone, words: Tensor, text_mask: Tensor, *, image: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """`fusion_pass`, and `target_pass` of targets [B, L, Dv]: [B, Q, D] each.

    As one pass, the targets have words of which none counts. Such words cost almost nothing where
    they have no rows. Elsewhere there are two passes.
    """
    queries = backbone.query_tokens
    if not qformer.saves_arithmetic(words.device) or torch.compiler.is_compiling():
        prompts = fusion_pass(backbone, queries, words, text_mask, image=image)
        return prompts, target_pass(backbone, targets)
    words = torch.cat([words, torch.zeros_like(words)])
    text_mask = torch.cat([text_mask, torch.zeros_like(text_mask)])
    both = fusion_pass(backbone, queries, words, text_mask, image=torch.cat([image, targets]))
    prompts, found = both.tensor_split(2)
    return prompts, found


def text_features(reader: Reader, sequence: Tensor, text_mask: Tensor) -> Tensor:
    """Features of the text's [CLS]: [B, E] of norm 1.

    Args:
        reader: holds the weights.
        sequence: [B, Q + T, D], Q prompts and the text behind them, at their positions.
        text_mask: [B, T], 1 where a word counts. Prompts always do.
    """
    count = sequence.shape[1] - text_mask.shape[1]
    mask = with_queries(text_mask, count)
    cls = reader.text_pass(sequence, mask=mask, kept=slice(count, count + 1))
    return project(reader.text_projection, cls[:, 0])


def features_of_both(
    backbone: Backbone, one: Tensor, other: Tensor, text_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """`text_features` of two sequences for each text, in one pass: [B, E] each."""
    both = text_features(backbone, torch.cat([one, other]), text_mask.repeat(2, 1))
    first, second = both.tensor_split(2)
    return first, second


def with_prompts(backbone: Backbone, prompts: Tensor, words: Tensor) -> Tensor:
    """Prompts and words at their positions: [B, Q + T, D].

    Args:
        backbone: holds the positions.
        prompts: [1, Q, D]. They stand in front, as in the second pass. But their positions are
            those behind the [CLS].
        words: [B, T, D] without positions, [CLS] first.
    """
    prompts = prompts.expand(words.shape[0], -1, -1)
    sequence = backbone.at_positions(torch.cat([words[:, :1], prompts, words[:, 1:]], 1))
    cls, prompts, others = sequence.tensor_split([1, 1 + prompts.shape[1]], 1)
    return torch.cat([prompts, cls, others], 1)
