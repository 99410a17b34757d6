"""Losses of composed retrieval: tensors in, named terms out.

Shapes: B queries of this process, G images they are compared with (the targets of all processes),
Q query tokens, D Q-Former width, E embedding width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def token_similarity(query: Tensor, targets: Tensor) -> Tensor:
    """Best inner product of each query with an image's Q features: [B, E], [G, Q, E] -> [B, G].

    >>> token_similarity(torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.5, 9.0], [0.7, 0.0]]]))
    tensor([[0.7000]])
    """
    images, tokens, width = targets.shape
    products = query @ targets.reshape(images * tokens, width).T  # [B, G * Q]
    return products.view(len(query), images, tokens).amax(-1)


def contrastive(logits: Tensor, labels: Tensor, target_ids: Tensor) -> Tensor:
    """Cross-entropy of each query against the images of the batch, in one direction.

    An image that is another copy of the query's own target is no negative and does not count.

    Args:
        logits: [B, G].
        labels: [B], each query's own column.
        target_ids: [G], equal for equal images.
    """
    copies = target_ids[None] == target_ids[labels][:, None]  # [B, G]
    own = F.one_hot(labels, len(target_ids)).bool()
    return F.cross_entropy(logits.masked_fill(copies & ~own, -torch.inf), labels)


def composed_losses(
    *,
    query: Tensor,
    text: Tensor,
    targets: Tensor,
    labels: Tensor,
    target_ids: Tensor,
    fusion_mean: Tensor,
    prompt_mean: Tensor,
    temperature: Tensor,
) -> dict[str, Tensor]:
    """The three terms of SPRC (Bai et al., ICLR 2024), unweighted.

    `loss_itc`: query -> target; `loss_rtc`: prompts and text alone -> target; `loss_align`: mean
    squared distance of the fusion pass' mean output [B, D] to the mean prompt [D].

    Args:
        query: [B, E].
        text: [B, E].
        targets: [G, Q, E].
        labels: [B], each query's own target.
        target_ids: [G], equal for equal images.
        fusion_mean: [B, D].
        prompt_mean: [D].
        temperature: a scalar that divides the similarities.
    """
    return {
        "loss_itc": contrastive(token_similarity(query, targets) / temperature, labels, target_ids),
        "loss_rtc": contrastive(token_similarity(text, targets) / temperature, labels, target_ids),
        "loss_align": F.mse_loss(fusion_mean, prompt_mean.expand_as(fusion_mean)),
    }
