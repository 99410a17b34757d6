"""The losses of composed retrieval: tensors in, named terms out, with all processes' negatives.

Shapes: B triplets of this process, W processes, G images a query is compared with (the targets of
all processes), Q query tokens, D Q-Former width, E embedding width.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from gatedcir import processes
from gatedcir.models.retriever import Encoded
from gatedcir.options.config import LossConfig

AUXILIARY_SCALE = 0.5  # weight of the contrast from a scale other than 1.0


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

    Other copies of the query's own target are left out, because they are no negatives.

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

    `loss_itc`: query -> target. `loss_rtc`: prompts and text alone -> target. `loss_align`: mean
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


def losses_of(
    found: Encoded, target_ids: Tensor, temperature: Tensor, *, shuffled: bool = False
) -> dict[str, Tensor]:
    """The loss terms of a batch. Its queries are contrasted with the targets of all processes.

    `shuffled` teaches every gate the map of another triplet.

    Gradients flow back through the gathered targets. Their average over the processes therefore
    equals the gradient of one process with the whole batch.
    """
    first, parallel = processes.rank() * len(target_ids), processes.count() > 1
    if parallel:
        gathered = [torch.empty_like(target_ids) for _ in range(processes.count())]
        dist.all_gather(gathered, target_ids)
        target_ids = torch.cat(gathered)  # [W * B]

    def of_all(targets: Tensor) -> Tensor:
        """[B, Q, E] -> [W * B, Q, E]."""
        return torch.cat(all_gather(targets)) if parallel else targets

    labels = torch.arange(len(found.query), device=found.query.device) + first
    losses = composed_losses(
        query=found.query,
        text=found.text,
        targets=of_all(found.targets),
        labels=labels,
        target_ids=target_ids,
        fusion_mean=found.fusion_mean,
        prompt_mean=found.prompt_mean,
        temperature=temperature,
    )
    if found.by_scale:
        losses["loss_scale"] = torch.stack(
            [
                (1.0 if scale == 1 else AUXILIARY_SCALE)
                * contrastive(
                    token_similarity(query, of_all(targets)) / temperature, labels, target_ids
                )
                for scale, (query, targets) in found.by_scale.items()
            ]
        ).sum()
    if found.gate is not None and found.gate_target is not None:
        wanted = found.gate_target.detach()
        if shuffled:
            wanted = wanted.roll(len(wanted) // 2, dims=0)  # far from its pool's in the batch
        losses["loss_gate"] = F.binary_cross_entropy(found.gate, wanted)
    return losses


def total_loss(losses: dict[str, Tensor], weights: LossConfig) -> Tensor:
    """The weighted sum of the terms."""
    total = (
        losses["loss_itc"]
        + weights.loss_rtc * losses["loss_rtc"]
        + weights.loss_align * losses["loss_align"]
    )
    if "loss_scale" in losses:
        total = total + weights.loss_scale * losses["loss_scale"]
    if "loss_gate" in losses:
        total = total + weights.loss_gate * losses["loss_gate"]
    return total
