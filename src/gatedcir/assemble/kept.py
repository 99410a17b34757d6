"""Model -> checkpoint, with or without its frozen towers."""

from typing import Any

from torch import Tensor

from gatedcir.errors import UserError
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.scale_towers import KEY
from gatedcir.models.text import Tokenizer
from gatedcir.models.weights.names import mismatch
from gatedcir.models.weights.tower import find_noted, note_of, towers_in, without_towers
from gatedcir.options.config import Config
from gatedcir.options.parsing import to_dict
from gatedcir.run_folder.checkpoint import Checkpoint


def checkpoint_of(
    model: ComposedRetriever,
    tokenizer: Tokenizer,
    config: Config,
    *,
    epoch: int,
    metrics: dict[str, float],
    provenance: dict[str, Any],
    towers: dict[str, Any] | None = None,
) -> Checkpoint:
    """The checkpoint of a model, without a trainer's state. `restore` is the inverse.

    `towers` names the frozen towers, which are then left out.
    """
    weights = model.state_dict()
    sizes = model.backbone.config.to_dict()
    sizes.pop(KEY, None)  # of the run that the backbone came from
    return Checkpoint(
        weights=weights if towers is None else without_towers(weights),
        backbone={**sizes, **model.scale_towers.sizes()},
        tokenizer=tokenizer.wordpiece.backend_tokenizer.to_str(),
        config=to_dict(config),
        provenance=provenance,
        epoch=epoch,
        metrics=metrics,
        towers=towers,
    )


def towers_left_out(config: Config, model: ComposedRetriever) -> dict[str, Any] | None:
    """What names the frozen towers in a checkpoint. None if the checkpoint is to hold them."""
    if config.run.save_tower or config.backbone.train_vision:
        return None
    found, notes = towers_in(model.state_dict()), {}
    for (prefix, weights), tower in zip(found.items(), model.towers, strict=True):
        # A run that the backbone is of may have trained the towers of the same scales.
        sources = dict.fromkeys([*tower.sources, *model.backbone.sources])
        notes[prefix] = note_of(weights, list(sources))
    return notes


def with_own_towers(run: Checkpoint, model: ComposedRetriever) -> dict[str, Tensor]:
    """The weights of a run that goes on, with the towers of the weights that it began with.

    Raises:
        UserError: these are others now.
    """
    expected = model.state_dict()
    weights, towers = dict(run.weights), towers_in(expected)
    for prefix, note in (run.towers or {}).items():
        tower = find_noted(note, [towers[prefix]])
        if tower is None:
            raise UserError(
                f"the run was trained with the vision tower of {note['sources'][0]}, and that of "
                "--backbone is another; name the old weights, or start a new run."
            )
        weights |= {prefix + name: weight for name, weight in tower.items()}
    if wrong := mismatch(weights, expected):
        raise UserError(
            f"the run was trained with other sizes than those of --backbone: {wrong}; name the old "
            "weights, or start a new run."
        )
    return weights
