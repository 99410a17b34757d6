"""The mean of the weights of several runs.

Source: model soups (Wortsman et al., ICML 2022).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from gatedcir.errors import UserError
from gatedcir.files import CONFIG_FILE, whole_folder, write_json, write_text
from gatedcir.resources import tensor_bytes
from gatedcir.run_folder import checkpoint
from gatedcir.run_folder.checkpoint import BEST, Checkpoint
from gatedcir.run_folder.provenance import RECIPES, provenance, recipes_before, recipes_of


def mean_of(
    runs: Sequence[Checkpoint],
    names: Sequence[Path],
    *,
    changed: Callable[[Mapping[str, Any], Mapping[str, Any]], Iterable[str]],
) -> Checkpoint:
    """The checkpoint with the mean weights. Everything else is that of the first run.

    Args:
        runs: two or more.
        names: what messages call them.
        changed: two configs -> the options that all runs must share, and in which these differ.

    Raises:
        UserError: their models differ, so that a mean makes no sense.
    """
    first = runs[0]
    for run, name in zip(runs, names, strict=True):
        differs = list(changed(run.config, first.config))
        if differs or _sizes(run) != _sizes(first):
            what = f"another {differs[0]}" if differs else "weights of other sizes"
            raise UserError(
                f"{name} has {what} than {names[0]}, and no mean with it; average runs of the same "
                "options of model and transform."
            )
    weights = {
        key: torch.stack([run.weights[key].float() for run in runs]).mean(0).to(weight.dtype)
        if weight.is_floating_point()
        else weight
        for key, weight in first.weights.items()
    }
    recipes = [f"the mean of {', '.join(map(str, names))}"]
    for run, name in zip(runs, names, strict=True):
        recipes += recipes_before(name, recipes_of(run.provenance))
    made_by = {**first.provenance, **provenance(), RECIPES: recipes}
    return replace(first, weights=weights, provenance=made_by, metrics={}, trainer=None)


def write(mean: Checkpoint, folder: Path) -> None:
    """Write the folder of a run that was not trained, whole or not at all."""
    with whole_folder(folder, size=tensor_bytes(mean.weights)) as unfinished:
        write_text(unfinished / CONFIG_FILE, yaml.safe_dump(mean.config, sort_keys=False))
        write_json(unfinished / "provenance.json", mean.provenance)
        place = unfinished / "checkpoints"
        place.mkdir()
        checkpoint.save(place / BEST, mean)


def _sizes(run: Checkpoint) -> tuple:
    """What must be equal in weights that are averaged."""
    return run.backbone, {name: tuple(weight.shape) for name, weight in run.weights.items()}
