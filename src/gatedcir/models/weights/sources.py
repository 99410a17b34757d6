"""The sources of weights: the hub, LAVIS' and SPRC's files, this project's own runs.

There is one function for each kind, and all give the same type of result. The loader looks at the
content of a file, not at its name, to decide what kind of weights it holds.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from gatedcir.errors import UserError, reason_of
from gatedcir.models.backbone import Backbone
from gatedcir.models.weights import hub_folder
from gatedcir.models.weights.beside import config_beside, tensors, tower_beside
from gatedcir.models.weights.locations import HUB_NAMES, TINY, locate
from gatedcir.models.weights.names import (
    BACKBONE,
    from_sprc,
    list_names,
    mismatch,
    to_sprc,
)
from gatedcir.models.weights.sizes import RANDOM, VIT_G, VIT_L, infer_config
from gatedcir.models.weights.tower import Tower, find_noted, towers_in
from gatedcir.models.weights.vocabulary import (
    padded,
    read_wordpieces,
    wordpieces_beside,
    wordpieces_from_json,
)
from gatedcir.run_folder import checkpoint
from gatedcir.run_folder.checkpoint import Checkpoint
from gatedcir.run_folder.provenance import recipes_of

SPRC_MODEL = "Blip2QformerCirAlignPrompt"
LINK = "tower"  # the name of a tower's weights next to a checkpoint
_KNOWN = {**RANDOM, **dict.fromkeys(HUB_NAMES, VIT_G), "pretrain_vitL": VIT_L}


@dataclass(frozen=True)
class Pretrained:
    """Weights in float32, whatever their file's precision, with vocabulary and other parts."""

    backbone: Backbone
    wordpieces: PreTrainedTokenizerFast
    description: str
    """What it was and where."""
    own: dict[str, Tensor] = field(default_factory=dict)
    """`prompt_tokens`, `temp` and the fusion's weights, as far as the source has them."""
    run: Checkpoint | None = None
    """The checkpoint, where it is this project's own."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """All of them, in a checkpoint's names."""
        return {BACKBONE + n: w for n, w in self.backbone.state_dict().items()} | self.own


def load(name: str) -> Pretrained:
    """Weights by a short name, a hub name, a file or a folder.

    Raises:
        UserError: the weights are not there, are unreadable, are incomplete, or are not those of
            BLIP-2's image-text model.
    """
    source = locate(name)
    if source in RANDOM:
        return from_nowhere(name)
    if isinstance(source, str) or source.is_dir():
        trained = hub_folder.find(source)
        if trained is not None:
            return from_run(hub_folder.read(trained), name)
        return from_hub(str(source))
    content = checkpoint.read(source)
    if checkpoint.is_checkpoint(content):
        return from_run(checkpoint.parse(content, source), source)
    if isinstance(content, Mapping):
        if SPRC_MODEL in content:
            return from_sprc_file(content[SPRC_MODEL], source)
        if "model" in content:
            return from_lavis_file(content["model"], source)
        for other in content:
            if str(other).startswith("Blip2"):
                raise UserError(
                    f"{source} holds SPRC's {other}, which this project does not have; give a "
                    f"file of its {SPRC_MODEL}."
                )
    raise UserError(
        f"{source} is no checkpoint of this project, LAVIS (`model`) or SPRC (`{SPRC_MODEL}`); "
        "give one of these."
    )


def sizes_of(name: str) -> dict[str, Any]:
    """The sizes of weights by the names of `load`, as `Backbone.without_weights` takes them.

    Published weights are not looked for, because their sizes are known.

    Raises:
        UserError: as `load`.
    """
    if name in _KNOWN:
        return _KNOWN[name]
    source = locate(name)
    if isinstance(source, Path) and source.is_dir() and hub_folder.find(source) is None:
        return json.loads((source / "config.json").read_bytes())
    return load(name).backbone.config.to_dict()


def from_hub(source: str) -> Pretrained:
    """Weights and WordPieces of a hub name, or of a folder in the hub's layout.

    Raises:
        UserError: they cannot be read, or are not BLIP-2's image-text weights.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        backbone, wrong = Backbone.from_pretrained(source)
    except Exception as error:  # this call uses a dozen libraries
        raise UserError(
            f"{source} cannot be read as a BLIP-2 folder: {reason_of(error)}; copy it again, or "
            f"give {HUB_NAMES['pretrain']}."
        ) from None
    if names := list_names(wrong):
        raise UserError(
            f"the weights of {source} are not those of BLIP-2's image-text model: {names}; "
            f"{HUB_NAMES['pretrain']} has them."
        )
    wordpieces = read_wordpieces(source, rows=_rows(backbone))
    return Pretrained(backbone, wordpieces, f"BLIP-2 of {source}")


def from_lavis_file(weights: Any, file: Path) -> Pretrained:
    """BLIP-2 from LAVIS' `{"model": ...}`. If the tower is left out, the file next to it holds it.

    Raises:
        UserError: as `from_sprc_file`, or the tower is not there.
    """
    weights = _model_tensors(weights, file)
    if not any(name.startswith("visual_encoder.") for name in weights):
        weights |= tower_beside(weights, file)
    return _from_lavis_names(weights, file, "LAVIS' BLIP-2", optional={"prompt_tokens", "temp"})


def from_sprc_file(weights: Any, file: Path) -> Pretrained:
    """SPRC's published model, prompts and temperature included.

    The sizes come from a `config.json` next to the file, or else from the shapes. The vocabulary
    comes from the folder of the file, or else from BERT.

    Raises:
        UserError: a weight is missing, unexpected or of another shape, or there are no sizes or no
            vocabulary for it.
    """
    return _from_lavis_names(_model_tensors(weights, file), file, "SPRC's model", optional=set())


def from_run(run: Checkpoint, file: Path | str) -> Pretrained:
    """The model of this project's own checkpoint, with its prompts, temperature and fusion.

    Raises:
        UserError: the weights do not fit the checkpoint's own sizes, or a frozen tower that
            it leaves out is nowhere.
    """
    sources = {prefix: tuple(note["sources"]) for prefix, note in (run.towers or {}).items()}
    run = with_towers(run, file)
    weights = {
        n.removeprefix(BACKBONE): w for n, w in run.weights.items() if n.startswith(BACKBONE)
    }
    try:
        empty = Backbone.without_weights(run.backbone, most=len(weights))
    except Exception as error:  # transformers' checks of a config have no common base
        raise UserError(
            f"{file} names no sizes of a BLIP-2 model ({reason_of(error)}); copy it again."
        ) from None
    if wrong := mismatch(weights, empty.state_dict()):
        raise UserError(f"the weights of {file} do not fit its own sizes: {wrong}; copy it again.")
    backbone = empty.around(weights)
    backbone.sources = sources.get(f"{BACKBONE}vision_model.", ())
    backbone.recipes = tuple(recipes_of(run.provenance))
    return Pretrained(
        backbone,
        wordpieces_from_json(run.tokenizer),
        f"{file} after {run.epoch} epoch{'s' * (run.epoch != 1)}",
        own={name: w.float() for name, w in run.weights.items() if not name.startswith(BACKBONE)},
        run=run,
    )


def with_towers(run: Checkpoint, file: Path | str) -> Checkpoint:
    """A checkpoint with the frozen towers that it only names, from the first source of each.

    Raises:
        UserError: none has it.
    """
    weights = dict(run.weights)
    for prefix, note in (run.towers or {}).items():
        size = run.backbone.get("vision_config", {}).get("image_size")
        link = Path(file).with_name(LINK)
        names = [*note["sources"], *([str(link.resolve())] if link.exists() else [])]
        tower = find_noted(note, (tower for name in names for tower in _towers_of(name, size)))
        if tower is None:
            raise UserError(
                f"{file} leaves out its frozen vision tower ({note['hash']}), and none of its "
                f"sources {', '.join(note['sources'])} has it here; bring one back to its place, "
                f"link it as {link}, or train with --save-tower, which keeps all in one file."
            )
        weights |= {prefix + name: weight for name, weight in tower.items()}
    return replace(run, weights=weights, towers=None)


def _towers_of(name: str, image_size: int) -> Iterator[Tower]:
    """The vision towers of weights, and last that of the backbone for another image size."""
    try:
        found = load(name)
    except UserError:
        return
    yield from towers_in(found.weights).values()
    if found.backbone.image_size != image_size:
        with suppress(ValueError):  # not for this size
            found.backbone.resize(image_size)
            yield from towers_in(found.weights).values()


def from_nowhere(name: str) -> Pretrained:
    """Random weights at a published size, always the same, to try out speed and memory."""
    backbone = Backbone.with_random_weights(RANDOM[name], seed=0)
    wordpieces = padded(from_hub(str(TINY)).wordpieces, rows=_rows(backbone))
    return Pretrained(backbone, wordpieces, f"random weights, {name}")


def _from_lavis_names(
    weights: dict[str, Tensor], file: Path, kind: str, *, optional: set[str]
) -> Pretrained:
    """A model from complete weights in LAVIS' names. The `optional` ones may be missing."""
    config = config_beside(file) or _inferred_config(weights, file)
    empty = Backbone.without_weights(config)
    names = {BACKBONE + name: weight for name, weight in empty.state_dict().items()}
    own = {"prompt_tokens": empty.query_tokens, "temp": empty.query_tokens.new_empty(())}
    expected = to_sprc({**names, **own})
    for name in optional - weights.keys():
        del expected[name]
    if wrong := mismatch(weights, expected):
        raise UserError(
            f"the weights of {file} are not those of {kind}: {wrong}; copy it again, or give "
            "another."
        )
    state = from_sprc(weights)
    return Pretrained(
        empty.around({n.removeprefix(BACKBONE): state[n] for n in names}),
        wordpieces_beside(file, rows=_rows(empty)),
        f"{kind} in {file}",
        own={name: state[name].float() for name in own if name in state},
    )


def _model_tensors(weights: Any, file: Path) -> dict[str, Tensor]:
    """A state dict of a model with BLIP-2's Q-Former for texts, without unused weights."""
    weights = tensors(weights, file)
    if not any(name.startswith("Qformer.bert.embeddings.") for name in weights):
        first = ", ".join(list(weights)[:3])
        raise UserError(
            f"{file} holds no BLIP-2 Q-Former that reads text (it begins with {first}); give "
            "weights of LAVIS' BLIP-2 first stage or of SPRC."
        )
    return weights


def _inferred_config(weights: Mapping[str, Tensor], file: Path) -> dict[str, Any]:
    try:
        return infer_config(weights)
    except (KeyError, IndexError) as error:
        raise UserError(
            f"{file} lacks {error}, without which the model's size is unknown; copy it again."
        ) from None
    except ValueError as error:
        raise UserError(
            f"{file} holds a model with {error}; put the hub's config.json of it next to it."
        ) from None


def _rows(backbone: Backbone) -> int:
    return backbone.embeddings.word_embeddings.num_embeddings
