"""Fine-tune: `gatedcir train` by its published name."""

from gatedcir.commands.main import start
from gatedcir.commands.train import main

__all__ = ["main"]

if __name__ == "__main__":
    start("train")
