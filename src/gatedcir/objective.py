"""What a training step minimises, with the negatives of all processes.

Shapes: B triplets of this process, W processes, Q query tokens, E embedding width.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from gatedcir.config import LossConfig
from gatedcir.losses import composed_losses, contrastive, token_similarity
from gatedcir.models.composer import Encoded

AUXILIARY_SCALE = 0.5  # weight of the contrast from a scale other than 1.0


def losses_of(found: Encoded, target_ids: Tensor, temperature: Tensor) -> dict[str, Tensor]:
    """The loss terms of a batch, its queries contrasted with the targets of all processes.

    Gradients flow back through the gathered targets, so that the average over processes of the
    gradients equals that of one process with the whole batch.
    """
    first, parallel = 0, _is_parallel()
    if parallel:
        gathered = [torch.empty_like(target_ids) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, target_ids)
        first = dist.get_rank() * len(target_ids)
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
    return losses


def _is_parallel() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def total_loss(losses: dict[str, Tensor], weights: LossConfig) -> Tensor:
    """The weighted sum of the terms."""
    total = (
        losses["loss_itc"]
        + weights.loss_rtc * losses["loss_rtc"]
        + weights.loss_align * losses["loss_align"]
    )
    if "loss_scale" in losses:
        total = total + weights.loss_scale * losses["loss_scale"]
    return total
