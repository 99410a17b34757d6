"""Checkpoints: one file with everything that evaluation and resuming need."""

import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch

from gatedcir.errors import UserError, is_lack_of_memory
from gatedcir.files import check_was_read, whole_file
from gatedcir.resources import tensor_bytes

FORMAT = "gatedcir-1"
CHECKPOINTS = "checkpoints"  # in a run's folder
BEST, LAST, BEFORE = "best.pt", "last.pt", "before_last.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A model after some epochs of a run."""

    weights: dict[str, torch.Tensor]
    """State of the `ComposedRetriever`, without frozen towers if `towers` names them."""
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
    """Optimiser, schedule, tables, and an epoch that is not done. None if only the model was kept.
    """
    towers: dict[str, Any] | None = None
    """The frozen towers that are left out, by what the names of their weights begin with: `hash`,
    `dtype`, and `sources`, which have it."""

    @property
    def tower_hashes(self) -> list[str]:
        """Of the towers that are left out."""
        return [note["hash"] for note in (self.towers or {}).values()]


def save(path: Path, checkpoint: Checkpoint, *, before: str | None = None) -> None:
    """Write a checkpoint whole. A crash leaves either the old file or the new one.

    Args:
        path: the file.
        checkpoint: its content.
        before: the name that the old file gets, if it is to stay. At every moment one of the two
            is there, and good.

    Raises:
        UserError: there is no room for it.
    """
    content = {"format": FORMAT, **vars(checkpoint)}
    with whole_file(path, size=tensor_bytes(content)) as unfinished:
        torch.save(content, unfinished)
        if before is not None and path.is_file():
            _keep(path, path.with_name(before))


def _keep(path: Path, before: Path) -> None:
    """Give a file a second name."""
    before.unlink(missing_ok=True)
    try:
        os.link(path, before)
    except OSError:  # not on every file system
        path.replace(before)


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
        NotReadError: the system did not give the file.
        UserError: the file is damaged, or holds objects other than tensors and plain values.
    """
    try:
        _check_stored(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
        _check_sums(file)
        return content
    except Exception as error:
        check_was_read(file, error)
        if is_lack_of_memory(error) and _is_whole(file):
            raise
        # The reader's errors have no common base class, and their texts advise to trust the file.
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            reason = "holds Python objects in addition to its tensors, which could run code"
            way_out = "ask its author for one with tensors and plain values only"
        else:
            reason = "is damaged or no file that torch.save wrote"
            way_out = "copy it again, or name a run's folder or a .pt file"
        raise UserError(f"{file} {reason}, so it was not opened; {way_out}.") from None


def _check_stored(file: Path) -> None:
    """ValueError if a part of a file is compressed. A small file could then fill the memory."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as parts:
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
                raise ValueError("torch.save compresses nothing")


def _check_sums(file: Path) -> None:
    """ValueError if a part of a file does not have its checksum. torch.load does not look at it."""
    if zipfile.is_zipfile(file):  # files of old versions of torch have none
        with zipfile.ZipFile(file) as parts:
            if (wrong := parts.testzip()) is not None:
                raise ValueError(f"{wrong} has another checksum")


def _is_whole(file: Path) -> bool:
    """Whether all parts of a file have their checksums."""
    try:
        _check_sums(file)
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
    return zipfile.is_zipfile(file)


def is_checkpoint(content: Any) -> bool:
    """Whether a file's content was written by `save`."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def parse(content: dict[str, Any], file: Path) -> Checkpoint:
    """The checkpoint in the content of a file. Parts that a later version added are left out.

    Raises:
        UserError: parts of it are missing, or hold values of a wrong kind.
    """
    names = {field.name for field in fields(Checkpoint)}
    values = {"towers": None} | {n: value for n, value in content.items() if n in names}
    if values.keys() != names:
        raise UserError(f"{file} is an incomplete checkpoint; copy it again, or train it again.")
    for name, kind in get_type_hints(Checkpoint).items():
        kinds = get_args(kind) if get_origin(kind) is UnionType else (kind,)
        if not isinstance(values[name], tuple(get_origin(one) or one for one in kinds)):
            raise UserError(
                f"{file} is a damaged checkpoint, whose {name} is a {type(values[name]).__name__}; "
                "copy it again, or train it again."
            )
    for part in (part for part, good in _PARTS.items() if not good(values[part])):
        raise UserError(
            f"{file} is a damaged checkpoint, whose {part} holds values of a wrong kind; copy it "
            "again, or train it again."
        )
    return Checkpoint(**values)


def _are(kind: type | tuple[type, ...]) -> Callable[[dict[Any, Any]], bool]:
    return lambda found: all(isinstance(n, str) and isinstance(v, kind) for n, v in found.items())


def _are_notes(towers: dict[Any, Any] | None) -> bool:
    """Whether each note of a tower has its hash, its precision and its sources."""
    return _are(dict)(towers or {}) and all(
        isinstance(note.get("hash"), str)
        and isinstance(getattr(torch, str(note.get("dtype")), None), torch.dtype)
        and isinstance(sources := note.get("sources"), (list, tuple))
        and all(isinstance(source, str) for source in sources)
        for note in (towers or {}).values()
    )


_PARTS: dict[str, Callable[[Any], bool]] = {
    "weights": _are(torch.Tensor),
    "backbone": _are(object),
    "config": _are(object),
    "provenance": _are(object),
    "metrics": _are((int, float)),
    "towers": _are_notes,
}
"""Parts of a checkpoint -> whether the values in them are of their kind."""


def goes_on(run: Path) -> bool:
    """Whether a run's folder holds a state that --resume goes on from."""
    return any((run / CHECKPOINTS / name).is_file() for name in (LAST, BEFORE))


def find(path: Path) -> Path:
    """The checkpoint file that a path means: itself, or the best or last of a run's folder."""
    if path.is_file():
        return path
    for name in (BEST, LAST, BEFORE):
        if (file := path / CHECKPOINTS / name).is_file():
            return file
    raise UserError(
        f"there is no checkpoint at {path}: name a .pt file, or the folder of a run that kept its "
        "weights."
    )
