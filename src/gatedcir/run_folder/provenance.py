"""Where a run or a checkpoint was made: git revision, versions, devices."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RECIPES = "recipes"  # the key of lines on the recipes that a run used


def recipes_of(made_by: Mapping[str, Any]) -> list[str]:
    """Lines on the recipes of a run, and of the runs that it started from. Maybe none."""
    return list(made_by.get(RECIPES, []))


def recipes_before(name: object, lines: Iterable[str]) -> list[str]:
    """The lines of a run whose weights went into another, marked with its name.

    >>> recipes_before("runs/first", ["--loss rcl"])
    ['of runs/first: --loss rcl']
    """
    return [f"of {name}: {line}" for line in lines]


def provenance() -> dict[str, Any]:
    """Git revision, versions and devices of this machine, as plain values."""
    packages = ("torch", "transformers", "accelerate", "faiss-cpu", "faiss-gpu", "gatedcir")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "git": _git_revision(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "versions": {name: v for name in packages if (v := _version(name)) is not None},
        "devices": devices or [f"cpu, {os.cpu_count()} cores"],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


def _git_revision() -> str:
    """The revision of this code, with "+" if files differ from it. "unknown" outside git."""
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        # Installed into another project's environment, this file is not of its repository.
        known = [*git, "ls-files", "--error-unmatch", Path(__file__).name]
        subprocess.run(known, capture_output=True, check=True)
        revision = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = [*git, "status", "--porcelain", "--untracked-files=no"]
        dirty = subprocess.run(changes, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision + ("+" if dirty else "")
