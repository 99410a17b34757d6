"""The commands that chaos.py kills, at which calls, and what they have written."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gatedcir.files import UNFINISHED

OF_THE_MACHINE = ("triplets_per_second", "peak_memory_gib")
_SHORT = "--backbone tiny --num-workers 0 --mixed-precision fp32 --learning-rate 1e-3 --quiet"
_TRAIN = "--limit 9 --batch-size 3 --num-epochs 2 --save-training --save-every-steps 1"

Ended = dict[str, Any]
"""What a command has written, by name."""


@dataclass(frozen=True)
class Work:
    """A command that is killed. All of them write into a folder `out`."""

    command: Callable[[Path, Path], list[str]]
    """Data folder, out -> the command and its flags."""
    read: Callable[[Path], Ended]
    """What is written so far."""
    again: Callable[[Path, Path], list[str]] | None = None
    """The same as `command`, after the kill. Without it: that one."""


def flags(data: Path) -> list[str]:
    """What all trainings share."""
    return ["--dataset", "CIRR", "--data-path", str(data / "cirr"), *_SHORT.split()]


def _train(data: Path, out: Path) -> list[str]:
    kept = ["--cache-features", str(out / "features"), "--output", str(out / "run")]
    return ["train", *flags(data), *_TRAIN.split(), *kept]


def _bank(data: Path, out: Path) -> list[str]:
    from_run = ["--stage", "bank", "--from", str(data / "run"), "--model.query-branch", "none"]
    short = [*_SHORT.split()[2:], *_TRAIN.split()]  # the run names backbone and data
    return ["train", *from_run, *short, "--output", str(out / "run")]


def _go_on(command: Callable[[Path, Path], list[str]]) -> Callable[[Path, Path], list[str]]:
    """With --resume, or from the start if nothing was kept."""

    def again(data: Path, out: Path) -> list[str]:
        from gatedcir.run_folder.checkpoint import goes_on

        if goes_on(out / "run"):
            return ["train", "--resume", str(out / "run"), "--quiet"]
        return command(data, out)

    return again


def _index(data: Path, out: Path) -> list[str]:
    photos = data / "cirr" / "test1"
    return ["index", "--model-path", "tiny", "--images", str(photos), "--output", str(out / "i")]


def _ablate(data: Path, out: Path) -> list[str]:
    grid = out / "grid.yaml"
    cells = {name: {"model": {"gated-fusion": {"strategy": name}}} for name in ("none", "gated")}
    grid.write_text(yaml.safe_dump({"baseline": "none", "cells": cells}))
    given = ["--grid", str(grid), "--seeds", "1", *flags(data), *_TRAIN.split()]
    return ["ablate", *given, "--output", str(out / "grid")]


def _tables(folder: Path) -> Ended:
    """The tables below a folder, without what differs from machine to machine."""
    import pandas as pd

    found = {}
    for file in sorted(folder.rglob("*_metrics.csv")):
        if file.parent.suffix == UNFINISHED:  # it never was written
            continue
        rows = pd.read_csv(file).drop(columns=list(OF_THE_MACHINE), errors="ignore")
        for row in rows.to_dict("records"):
            found[f"{file.relative_to(folder)}, epoch {row['epoch']}"] = row
    return found


def _run(out: Path) -> Ended:
    """Tables, and from the checkpoints all that training and evaluation read."""
    from gatedcir.run_folder import checkpoint

    found = _tables(out)
    for name in ("best.pt", "last.pt"):
        file = out / "run" / "checkpoints" / name
        if file.is_file():
            kept = checkpoint.load(file)  # never damaged
            state = (kept.trainer or {}).get("optimizer")
            found[f"{name} of epoch {kept.epoch}"] = (kept.weights, kept.metrics, state)
    return found


def _hits(out: Path) -> Ended:
    """Images and their scores for a text."""
    from gatedcir.gallery.gallery import Gallery

    if not (out / "i" / "index.json").is_file():
        return {}
    gallery = Gallery.open(out / "i", _retriever())
    found = {hit.path.name: hit.score for hit in gallery.search(text="red", k=100)}
    gallery.close()
    return found


@cache
def _retriever() -> Any:
    from gatedcir.gallery.retriever import Retriever

    return Retriever.from_pretrained("tiny")


WORKS = {
    "train": Work(_train, _run, _go_on(_train)),
    "bank": Work(_bank, _run, _go_on(_bank)),
    "index": Work(_index, _hits),
    "ablate": Work(_ablate, _tables),
}
MOMENTS = {
    "step": ("train", "gatedcir.training.step:TrainingStep.__call__"),
    "validation": ("train", "gatedcir.training.loop:validate_epoch"),
    "checkpoint": ("train", "gatedcir.run_folder.checkpoint:save"),
    "row": ("train", "gatedcir.run_folder.folder:RunFolder.add"),
    "features": ("train", "gatedcir.features.folder:FeatureFolder.fill"),
    "index": ("index", "gatedcir.gallery.indexing:Indexing._write"),
    "grid": ("ablate", "gatedcir.ablation.runs:start"),
    "bank": ("bank", "gatedcir.training.later_step:LaterStep.__call__"),
}
