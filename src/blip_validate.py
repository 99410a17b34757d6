"""Evaluate a checkpoint: `gatedcir evaluate` by its published name."""

from gatedcir.commands.evaluate import main
from gatedcir.commands.main import start

__all__ = ["main"]

if __name__ == "__main__":
    start("evaluate")
