"""What a training step minimises, with the negatives of all processes.

Shapes: B triplets of this process, W processes, Q query tokens, E embedding width.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from gatedcir.config import LossConfig
from gatedcir.losses import composed_losses
from gatedcir.models.composer import Encoded


def losses_of(found: Encoded, target_ids: Tensor, temperature: Tensor) -> dict[str, Tensor]:
    """The loss terms of a batch, its queries contrasted with the targets of all processes.

    Gradients flow back through the gathered targets, so that the average over processes of the
    gradients equals that of one process with the whole batch.
    """
    targets, first = found.targets, 0
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        targets = torch.cat(all_gather(targets))  # [W * B, Q, E]
        gathered = [torch.empty_like(target_ids) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, target_ids)
        first = dist.get_rank() * len(target_ids)
        target_ids = torch.cat(gathered)  # [W * B]
    return composed_losses(
        query=found.query,
        text=found.text,
        targets=targets,
        labels=torch.arange(len(found.query), device=found.query.device) + first,
        target_ids=target_ids,
        fusion_mean=found.fusion_mean,
        prompt_mean=found.prompt_mean,
        temperature=temperature,
    )


def total_loss(losses: dict[str, Tensor], weights: LossConfig) -> Tensor:
    """The weighted sum of the terms."""
    return (
        losses["loss_itc"]
        + weights.loss_rtc * losses["loss_rtc"]
        + weights.loss_align * losses["loss_align"]
    )
