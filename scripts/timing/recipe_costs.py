"""Runs with each recipe, and what they cost."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from gatedcir.errors import UserError
from gatedcir.evaluation.report import table
from gatedcir.synthetic.layouts import write_cirr

if TYPE_CHECKING:
    from bench_recipes import Options

_FIRST = "first"  # the plain run, from which the later stages start
_LATER = ("--from", _FIRST)
RECIPES: dict[str, tuple[str, ...]] = {
    "rcl": ("--loss", "rcl"),
    "ema": ("--ema", "0.999"),
    "bank-second": ("--stage", "bank", *_LATER),
    "bank-both": ("--stage", "bank", *_LATER, "--model.query-branch", "both"),
    "bank-none": ("--stage", "bank", *_LATER, "--model.query-branch", "none"),
    "bank-hardest-100": ("--stage", "bank", *_LATER, "--bank-hardest", "100"),
    "rerank": ("--stage", "rerank", *_LATER),
}
"""Name of each recipe -> its words of `gatedcir train`."""


def report(options: "Options") -> None:
    """Train with each recipe and print the table."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sizes = {"train": options.triplets, "val": options.queries, "test": 1}
        for _ in write_cirr(folder / "scenes", sizes, seed=0):
            pass
        data = ("--dataset", "CIRR", "--data-path", "scenes", "--backbone", options.backbone)
        plain = ("--model.gated-fusion.strategy", "none", *data)
        costs = {"ordinary": _train(folder, options, _FIRST, plain)}
        for name, words in RECIPES.items():
            later = "--from" in words
            costs[name] = _train(folder, options, name, words if later else (*plain, *words))
        rows = [_row(name, cost, costs["ordinary"]) for name, cost in costs.items()]
        sizes_said = f"batch of {options.batch_size}, {options.triplets} triplets"
        print(f"{options.backbone}, {sizes_said}, {torch.get_num_threads()} threads\n")
        print(table(["training", "triplets/s", "time of a triplet", "peak GiB"], rows))
        judged = _run(folder, "evaluate", "--model-path", "rerank", "--no-composition", *data[:4])
        print(f"\nreranking with the matcher: {judged.splitlines()[-1].strip()}")


def _train(folder: Path, options: "Options", name: str, words: Sequence[str]) -> pd.DataFrame:
    """The rows of train_metrics.csv of a run, without the first epoch."""
    later = "--from" in words
    fixed = ("--config", str(Path(__file__).parents[2] / "configs" / "tiny.yaml"))
    _run(
        folder,
        "train",
        *(() if later else fixed),
        *words,
        *("--cache-features", "features", "--no-save-training", "--save-best", "--quiet"),
        *("--num-epochs", str(options.epochs), "--validation-frequency", str(options.epochs)),
        *("--batch-size", str(options.batch_size), "--output", name),
    )
    return pd.read_csv(folder / name / "train_metrics.csv").iloc[1:]


def _row(name: str, cost: pd.DataFrame, ordinary: pd.DataFrame) -> list[str]:
    rate, plain = (one["triplets_per_second"].median() for one in (cost, ordinary))
    memory = cost["peak_memory_gib"].max()
    return [name, f"{rate:.0f}", f"{plain / rate:.2f}", f"{memory:.2f}"]


def _run(folder: Path, *words: str) -> str:
    """What a command prints. Raises UserError with its last line where it fails."""
    command = [sys.executable, "-m", "gatedcir", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with the status {done.returncode}"]
        raise UserError(f"`gatedcir {words[0]}` failed: {said[-1]}")
    return done.stdout
