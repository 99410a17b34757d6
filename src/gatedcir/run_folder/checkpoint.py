"""Checkpoints: one file with everything that evaluation and resuming need."""

import pickle
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch

from gatedcir.errors import UserError
from gatedcir.files import whole_file
from gatedcir.resources import tensor_bytes

FORMAT = "gatedcir-1"
BEST, LAST = "best.pt", "last.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A model after some epochs of a run."""

    weights: dict[str, torch.Tensor]
    """State of the `ComposedRetriever`, the frozen tower included."""
    backbone: dict[str, Any]
    """Dictionary form of the BLIP-2 config."""
    tokenizer: str
    """The tokenizer's JSON."""
    config: dict[str, Any]
    """The run's resolved options."""
    provenance: dict[str, Any]
    """Where it was made: git revision, versions, device."""
    epoch: int
    """Epochs done."""
    metrics: dict[str, float]
    """Validation after that epoch. Empty if there was none."""
    trainer: dict[str, Any] | None = None
    """Optimiser and schedule. None if only the model was kept."""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole. A crash leaves either the old file or the new one.

    Raises UserError if there is no room for it.
    """
    content = {"format": FORMAT, **vars(checkpoint)}
    with whole_file(path, size=tensor_bytes(content)) as unfinished:
        torch.save(content, unfinished)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint file, or the best, else the last, of a run's folder.

    Raises:
        UserError: nothing there, unreadable, or not a checkpoint of this project.
    """
    file = find(path)
    content = read(file)
    if not is_checkpoint(content):
        raise UserError(
            f"{file} is not a checkpoint of this project; name one, or the folder of a run."
        )
    return parse(content, file)


def read(file: Path) -> Any:
    """The content of a file of `torch.save`, with tensors on the CPU. Code in it is never run.

    Raises:
        UserError: the file is damaged, or holds objects other than tensors and plain values.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # The reader's errors have no common base class, and their texts advise to trust the file.
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            reason = "holds Python objects in addition to its tensors, which could run code"
            way_out = "ask its author for one with tensors and plain values only"
        else:
            reason = "is damaged or no file that torch.save wrote"
            way_out = "copy it again, or name a run's folder or a .pt file"
        raise UserError(f"{file} {reason}, so it was not opened; {way_out}.") from None


def is_checkpoint(content: Any) -> bool:
    """Whether a file's content was written by `save`."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def parse(content: dict[str, Any], file: Path) -> Checkpoint:
    """The checkpoint in the content of a file. Parts that a later version added are left out.

    Raises:
        UserError: parts of it are missing.
    """
    names = {field.name for field in fields(Checkpoint)}
    values = {name: value for name, value in content.items() if name in names}
    if values.keys() != names:
        raise UserError(f"{file} is an incomplete checkpoint; copy it again, or train it again.")
    for name, kind in get_type_hints(Checkpoint).items():
        kinds = get_args(kind) if get_origin(kind) is UnionType else (kind,)
        if not isinstance(values[name], tuple(get_origin(one) or one for one in kinds)):
            raise UserError(
                f"{file} is a damaged checkpoint, whose {name} is a {type(values[name]).__name__}; "
                "copy it again, or train it again."
            )
    return Checkpoint(**values)


def find(path: Path) -> Path:
    """The checkpoint file that a path means: itself, or the best or last of a run's folder."""
    if path.is_file():
        return path
    for file in (path / "checkpoints" / BEST, path / "checkpoints" / LAST):
        if file.is_file():
            return file
    raise UserError(
        f"there is no checkpoint at {path}: name a .pt file, or the folder of a run that kept its "
        "weights."
    )
