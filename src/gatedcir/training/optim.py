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


def check_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """ValueError if a state that was read from a file is none of the optimiser's weights.

    torch looks at no shape, and writes past the end of a tensor that is too small.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in state["state"].items():
        shapes = {"step": torch.Size(), "exp_avg": parameters[number].shape}
        shapes["exp_avg_sq"] = shapes["exp_avg"]
        if {name: getattr(value, "shape", None) for name, value in values.items()} != shapes:
            raise ValueError(f"the state of weight {number} does not fit it")
    for before, now in zip(state["param_groups"], optimizer.param_groups, strict=True):
        for name in before.keys() & now.keys() - {"params"}:
            if not _is_like(before[name], now[name]):
                raise ValueError(f"{name} of a group of weights is {before[name]!r}")


def _is_like(found: Any, wanted: Any) -> bool:
    """Whether a value of a file has the kind of another. None stands for a choice of torch's."""
    if wanted is None or isinstance(wanted, bool):
        return found is None or isinstance(found, bool)
    if isinstance(wanted, tuple | list):
        return isinstance(found, tuple | list) and len(found) == len(wanted)
    return isinstance(found, int | float) and not isinstance(found, bool)
