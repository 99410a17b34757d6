"""Shards of trainable weights, their gradients and the optimiser's state over the processes.

torch's `fully_shard` (FSDP2, after ZeRO, Rajbhandari et al., SC 2020) gathers the weights for a
step and lets each process keep one part of each. Frozen weights stay whole everywhere, because they
have no gradient. Scalars stay whole too, because they have no parts. Without shards, the functions
here change nothing.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map


def shards_are_asked_for() -> bool:
    """Whether the launcher's config says FSDP, and there are processes to spread over."""
    parallel = dist.is_initialized() and dist.get_world_size() > 1
    return parallel and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def shard(model: nn.Module, device: torch.device) -> None:
    """Keep one part of every trainable matrix and vector of the model on each process.

    The values of the first process are used. `forward` then gathers the weights, and its backward
    pass averages their gradients over the processes. `average_scalars` does this for scalars.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), src=0)
    whole = {p for p in model.parameters() if not p.requires_grad or p.ndim == 0}
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    fully_shard(model, mesh=mesh, ignored_params=whole)


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Whole weights inside, so that one process can validate alone. All processes must enter."""
    if isinstance(model, FSDPModule):
        model.unshard()
    yield
    if isinstance(model, FSDPModule):  # which needs no other process
        model.reshard()


def average_scalars(model: nn.Module) -> None:
    """Average the gradients of scalars over the processes, because shards leave scalars out."""
    if isinstance(model, FSDPModule):
        for parameter in model.parameters():
            if parameter.ndim == 0 and parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale all gradients down to one common norm, those in shards and whole ones together."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    parts: list[list[Tensor]] = [
        [g for g in gradients if isinstance(g, DTensor)],
        [g for g in gradients if not isinstance(g, DTensor)],
    ]
    norms = [_plain(nn.utils.get_total_norm(part)) for part in parts if part]
    scale = (max_norm / (torch.stack(norms).norm() + 1e-6)).clamp(max=1)
    torch._foreach_mul_([_own_part(g) for g in gradients], scale)


def gathered(state: Any) -> Any:
    """A state dict with whole tensors on the CPU instead of shards.

    All processes must call it. All but the first keep their shards.
    """
    return tree_map(_gathered, state)


def spread(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load an optimiser's gathered state into the shards of its parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    spread_over = {
        number: {name: _as_sharded(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": spread_over}


def _as_sharded(value: Any, parameter: Tensor) -> Any:
    if not isinstance(parameter, DTensor) or getattr(value, "shape", None) != parameter.shape:
        return value
    return distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def _gathered(value: Any) -> Any:
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()
    return whole.cpu() if dist.get_rank() == 0 else value


def _plain(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _own_part(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
