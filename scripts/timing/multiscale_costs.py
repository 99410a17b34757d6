"""Costs of the MultiScaleInputProcessor: what its document states, and what is measured."""

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from bench import GIGA, limits, operations, seconds
from torch import Tensor, nn

from gatedcir.device import find_device
from gatedcir.evaluation.report import table
from gatedcir.multiscale import MultiScaleInputProcessor
from gatedcir.multiscale.pyramids.multi_scale_input import SIZE_MULTIPLE
from gatedcir.multiscale.scale_sizes import scaled_size
from gatedcir.resources import GIB, MIB

if TYPE_CHECKING:
    from bench_multiscale import Options

# What the document states: PVTv2-B2, 352 pixels, a batch of 4, and a GPU that it does not name.
PARAMETERS = {"backbone": "25", "ABSI": "8", "hierarchical": "4", "heads": "0.5"}
MEMORY = {0.5: "400 MB", 1.0: "800 MB", 1.5: "1.2 GB"}
TIMES = {256: (45, 35), 352: (78, 62), 416: (115, 92)}  # ms: ABSI, hierarchical


def report(options: "Options") -> None:
    """Count, time, and print the tables."""
    print(f"{options.backbone}; parameters in millions, as stated and as counted\n")
    print(table(["part", "stated", "counted"], parameters(options.backbone)))
    print(f"\nactivations of {options.batch_size} images of {options.size} pixels, in training\n")
    print(table(["part", "stated", "counted"], activations(options)))
    device = find_device(options.device)
    print(f"\none image, no gradients, {limits(device)}\n")
    print(
        table(
            ["side", "ABSI", "hierarchical", "1.0x alone", "GFLOP of the three"],
            times(options, device),
        )
    )


def make(backbone: str, *, hierarchical: bool) -> MultiScaleInputProcessor:
    """The processor of the document."""
    return MultiScaleInputProcessor(backbone, use_hierarchical=hierarchical)


def parameters(backbone: str) -> list[list[str]]:
    """Rows of part, stated, counted."""
    with torch.device("meta"):
        absi, staged = (make(backbone, hierarchical=kind) for kind in (False, True))
    parts = {
        "backbone": staged.pyramids,
        "ABSI": absi.integrations,
        "hierarchical": staged.integrations,
        "heads": staged.heads,
    }
    rows = [[name, PARAMETERS[name], _millions(part)] for name, part in parts.items()]
    whole = f"{_millions(absi)} with ABSI, {_millions(staged)} hierarchical"
    return [*rows, ["total", "38", whole]]


def _millions(module: nn.Module) -> str:
    return f"{sum(one.numel() for one in module.parameters()) / 1e6:.1f}"


def activations(options: "Options") -> list[list[str]]:
    """Rows of part, stated, counted."""
    side, rows, totals, per_scale = options.size, [], {}, 0
    with torch.device("meta"):
        x = torch.empty(options.batch_size, 3, side, side)
        for name, hierarchical in (("ABSI", False), ("hierarchical", True)):
            processor = make(options.backbone, hierarchical=hierarchical)
            totals[name] = kept(lambda: processor(x, return_loss_inputs=True))  # noqa: B023
        for scale in processor.scales:
            size = scaled_size((side, side), scale, SIZE_MULTIPLE)
            image = torch.empty(options.batch_size, 3, *size)
            found = kept(lambda: processor.pyramids[0](image))  # noqa: B023
            per_scale += found
            stated = MEMORY.get(scale, "-")
            rows.append([f"{scale}x, {size[0]} pixels", stated, f"{found / MIB:.0f} MiB"])
        for name, total in totals.items():
            rows.append([f"{name} and heads", "600 MB", f"{(total - per_scale) / MIB:.0f} MiB"])
        for name, total in totals.items():
            rows.append([f"total, {name}", "3 GB", f"{total / GIB:.1f} GiB"])
        for name in ("sequential", "checkpointing"):
            setting: dict[str, Any] = {name: True}
            processor = MultiScaleInputProcessor(options.backbone, **setting)
            total = kept(lambda: processor(x, return_loss_inputs=True))  # noqa: B023
            rows.append([f"hierarchical, {name}=True", "-", f"{total / GIB:.1f} GiB"])
    return rows


def kept(call: Callable[[], object]) -> int:
    """Bytes of the activations that autograd keeps for the backward pass of a call."""
    found: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            found[tensor.untyped_storage()._cdata] = tensor  # kept, so that no number comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = call()
    del output
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def times(options: "Options", device: torch.device) -> list[list[str]]:
    """Rows of side, times with ABSI and hierarchical, time of one scale, and arithmetic of each."""
    processors = [make(options.backbone, hierarchical=kind).eval() for kind in (False, True, True)]
    processors[2].enable_multi_scale(False)
    rows = []
    for side in options.sides:
        counted = []
        for one in processors:
            image = torch.empty(1, 3, side, side, device="meta")
            with torch.no_grad():
                counted.append(operations(lambda: deepcopy(one).to("meta")(image)))  # noqa: B023
        image = torch.randn(1, 3, side, side, device=device)
        found = [_time(one.to(device), image, options.repeats) for one in processors]
        stated = [f" (stated: {ms})" for ms in TIMES.get(side, ("-", "-"))]
        cells = [f"{ms:.0f} ms{claim}" for ms, claim in zip(found, [*stated, ""], strict=True)]
        rows.append([str(side), *cells, ", ".join(f"{one / GIGA:.1f}" for one in counted)])
    return rows


def _time(processor: nn.Module, image: Tensor, repeats: int) -> float:
    """Milliseconds of a pass."""
    with torch.no_grad():
        processor(image)
        return 1000 * seconds(lambda: processor(image), repeats=repeats)
