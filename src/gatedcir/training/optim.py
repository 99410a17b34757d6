"""The optimiser: weight decay, learning rates, and their schedule."""

from typing import Any

import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from gatedcir.models.weights.names import FUSIONS
from gatedcir.options.config import OptimConfig

_BETAS, _EPS = (0.9, 0.98), 1e-7  # of the published trainer


def make_optimizer(
    model: nn.Module, options: OptimConfig, *, steps_per_epoch: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW, and a warm-up and cosine decay that span exactly the epochs asked for."""
    optimizer = torch.optim.AdamW(
        parameter_groups(model, options),
        betas=_BETAS,
        eps=_EPS,
        fused=True,  # one pass over the weights: several times faster, on CPUs too
    )
    steps = options.num_epochs * steps_per_epoch
    warmup = int(options.warmup * steps)
    return optimizer, get_cosine_schedule_with_warmup(optimizer, warmup, steps)


def parameter_groups(model: nn.Module, options: OptimConfig) -> list[dict[str, Any]]:
    """Trainable parameters in groups.

    Matrices have weight decay. Biases, norms, prompts and scalars have none. The fusions'
    parameters have their own learning rate. The first group holds pretrained weights. Scalars have
    their own groups, because they stay whole when other weights are in shards.
    """
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or name.endswith(("prompt_tokens", "query_tokens"))
            added = name.startswith(FUSIONS)
            groups.setdefault((added, plain, parameter.ndim == 0), []).append(parameter)
    return [
        {
            "params": groups[added, plain, scalar],
            "weight_decay": 0.0 if plain else options.weight_decay,
            "lr": options.learning_rate * (options.fusion_rate if added else 1.0),
        }
        for added, plain, scalar in sorted(groups)
    ]
