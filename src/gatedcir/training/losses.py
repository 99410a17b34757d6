"""The losses of composed retrieval: tensors in, named terms out, with all processes' negatives.

Shapes: B triplets of this process, W processes, G images a query is compared with (the targets of
all processes), Q query tokens, D Q-Former width, E embedding width.
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from gatedcir import processes
from gatedcir.models.encoded import Encoded
from gatedcir.multiscale.pyramids.scale_loss import scale_consistency
from gatedcir.options.config import LossConfig

AUXILIARY_SCALE = 0.5  # weight of the contrast from a scale other than 1.0, by default
_LEAST_SHARE = 1e-7  # keeps the logarithm of `complementary` finite


def token_similarity(query: Tensor, targets: Tensor) -> Tensor:
    """Best inner product of each query with an image's Q features: [B, E], [G, Q, E] -> [B, G].

    >>> token_similarity(torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.5, 9.0], [0.7, 0.0]]]))
    tensor([[0.7000]])
    """
    images, tokens, width = targets.shape
    products = query @ targets.reshape(images * tokens, width).T  # [B, G * Q]
    return products.view(len(query), images, tokens).amax(-1)


def complementary(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """The robust complementary loss: minus the sum of log(1 - p) over the wrong columns.

    A query whose label is wrong cannot make it large, because it never asks for p = 1 at the label.
    `reduction` is "mean" or "none", as of torch. Of a guess among n columns this is about 1, where
    cross-entropy is log(n).

    Source: RCL (Hu et al., TPAMI 2023), as TME (CVPR 2025) uses it.

    >>> complementary(torch.zeros(1, 2), torch.tensor([0]))  # p = 1/2, and log 2
    tensor(0.6931)
    """
    shares = logits.softmax(1).clamp(_LEAST_SHARE, 1 - _LEAST_SHARE)  # [B, G]
    rows = -torch.log1p(-shares).scatter(1, labels[:, None], 0.0).sum(1)  # [B]
    return rows if reduction == "none" else rows.mean()


CONTRASTS: dict[str, Callable[..., Tensor]] = {
    "itc": F.cross_entropy,
    "rcl": complementary,
}
"""Logits [B, G] and each query's own column [B] -> the mean, or [B] with `reduction="none"`."""


def weighted(contrast: str, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """A contrast's mean over the queries, each [B] times its weight.

    >>> rows = torch.tensor([[0.0, 0.0], [9.0, 0.0]])
    >>> weighted("itc", rows, torch.tensor([0, 0]), torch.tensor([2.0, 0.0]))
    tensor(0.6931)
    """
    if weights is None:
        return CONTRASTS[contrast](logits, labels)
    return (CONTRASTS[contrast](logits, labels, reduction="none") * weights).mean()


CHANCES: dict[str, Callable[[int], float]] = {
    "itc": math.log,
    "rcl": lambda images: -(images - 1) * math.log1p(-1 / images),
}
"""The same of a model that guesses among so many images."""


def contrastive(
    logits: Tensor,
    labels: Tensor,
    target_ids: Tensor,
    *,
    contrast: str = "itc",
    weights: Tensor | None = None,
) -> Tensor:
    """Contrast of each query with the images of the batch, in one direction.

    Other copies of the query's own target are left out, because they are no negatives.

    Args:
        logits: [B, G].
        labels: [B], each query's own column.
        target_ids: [G], equal for equal images.
        contrast: of `CONTRASTS`.
        weights: [B], of the queries. None: each counts once.
    """
    copies = target_ids[None] == target_ids[labels][:, None]  # [B, G]
    own = F.one_hot(labels, len(target_ids)).bool()
    return weighted(contrast, logits.masked_fill(copies & ~own, -torch.inf), labels, weights)


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
    contrast: str = "itc",
    weights: Tensor | None = None,
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
        contrast: of `CONTRASTS`.
        weights: [B], of the triplets. None: each counts once.
    """
    itc, rtc = (token_similarity(each, targets) / temperature for each in (query, text))
    return {
        "loss_itc": contrastive(itc, labels, target_ids, contrast=contrast, weights=weights),
        "loss_rtc": contrastive(rtc, labels, target_ids, contrast=contrast, weights=weights),
        "loss_align": _distance(fusion_mean, prompt_mean.expand_as(fusion_mean), weights),
    }


def _distance(found: Tensor, wanted: Tensor, weights: Tensor | None) -> Tensor:
    """The mean squared distance of [B, D] to [B, D], each row times its weight."""
    if weights is None:
        return F.mse_loss(found, wanted)
    return (F.mse_loss(found, wanted, reduction="none").mean(1) * weights).mean()


def losses_of(
    found: Encoded,
    target_ids: Tensor,
    temperature: Tensor,
    *,
    scale_weights: Mapping[float, float] | None = None,
    consistent: bool = False,
    shuffled: bool = False,
    contrast: str = "itc",
    weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """The loss terms of a batch. Its queries are contrasted with the targets of all processes.

    `scale_weights` are those of the contrasts from each scale alone. Without them, 1.0 counts once
    and the others count half. `consistent` compares the scales. `shuffled` teaches
    every gate the map of another triplet. `contrast` is of `CONTRASTS`.
    `weights` [B] are those of the triplets, in all terms but that of the gate.

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
        contrast=contrast,
        weights=weights,
    )
    if found.by_scale:
        scores = {
            scale: token_similarity(query, of_all(targets))
            for scale, (query, targets) in found.by_scale.items()
        }  # [B, G] for each scale
        losses["loss_scale"] = torch.stack(
            [
                (AUXILIARY_SCALE ** (scale != 1) if scale_weights is None else scale_weights[scale])
                * contrastive(
                    of_scale / temperature, labels, target_ids, contrast=contrast, weights=weights
                )
                for scale, of_scale in scores.items()
            ]
        ).sum()
        if consistent:
            maps = [of_scale[None, None] for of_scale in scores.values()]
            losses["loss_consistency"] = scale_consistency(maps, list(scores).index(1.0))
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
        # Several weights are in the term already.
        weight = 1.0 if isinstance(weights.loss_scale, tuple) else weights.loss_scale
        total = total + weight * losses["loss_scale"]
    if "loss_consistency" in losses:
        total = total + weights.loss_consistency * losses["loss_consistency"]
    if "loss_gate" in losses:
        total = total + weights.loss_gate * losses["loss_gate"]
    return total
