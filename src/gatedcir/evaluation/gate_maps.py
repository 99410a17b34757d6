"""A model's maps over the cells.

Shapes: B batch, M queries, L visual tokens ([CLS] first), P = L - 1 cells.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gatedcir.errors import UserError
from gatedcir.evaluation.evaluator import Evaluator
from gatedcir.evaluation.localisation import Floats
from gatedcir.models.gated_fusion.survival import lost_from_levels
from gatedcir.visual import take


class Maps(NamedTuple):
    """Maps [M, P] of some queries: means over the channels, without [CLS]."""

    gate: Floats
    change: Floats
    """abs(alpha * gate * delta)."""


@torch.inference_mode()
def maps_of(evaluator: Evaluator, references: Sequence[str], texts: Sequence[str]) -> Maps:
    """The maps of M references, each with its text. Every image is read once."""
    asked: dict[str, list[int]] = {}
    for number, name in enumerate(references):
        asked.setdefault(name, []).append(number)
    names, size = list(asked), evaluator.batch_size
    gates: list[Tensor] = [torch.empty(0)] * len(texts)
    changes = list(gates)
    for start, images in evaluator.batches(names, "gate maps"):
        with evaluator.runs_on.autocast():
            levels = evaluator.model.levels(images)
        shown = enumerate(names[start : start + size])
        pairs = [(row, number) for row, name in shown for number in asked[name]]
        for some in range(0, len(pairs), size):
            rows, numbers = zip(*pairs[some : some + size], strict=True)
            visual = take(levels, torch.tensor(rows))
            aux = evaluator.explain(visual, [texts[number] for number in numbers])
            if "change_map" not in aux:
                raise UserError(
                    "the fusion does not report its change at each token; add change_map [B, L] to "
                    "its aux, as gatedcir.models.gated_fusion.gated.change_figures does."
                )
            gate = aux["gate"].float().mean(-1)[:, 1:].cpu()
            change = aux["change_map"].float()[:, 1:].cpu()
            for number, one, other in zip(numbers, gate, change, strict=True):
                gates[number], changes[number] = one, other
    return Maps(torch.stack(gates).numpy(), torch.stack(changes).numpy())


@torch.inference_mode()
def lost_maps(evaluator: Evaluator, references: Sequence[str], targets: Sequence[str]) -> Floats:
    """What of M references is not found again in their targets, without any labels: [M, P].

    It is read off the tower's outputs in full size, at the layers of the gate's lesson. Without a
    lesson these are the layers that the model reads.
    """
    found, model = [], evaluator.model
    with evaluator.runs_on.autocast():
        for (_, one), (_, other) in zip(
            evaluator.batches(list(references), "references"),
            evaluator.batches(list(targets), "targets"),
            strict=True,
        ):
            levels = (model.levels(each) for each in (one, other))
            pair = ([of_one[place] for place in model.lesson_places] for of_one in levels)
            found.append(lost_from_levels(*pair).cpu())
    return torch.cat(found).numpy()
