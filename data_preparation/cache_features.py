"""Encode a data set's images once: `gatedcir cache` by its published name."""

from gatedcir.commands.cache import main
from gatedcir.commands.main import start

__all__ = ["main"]

if __name__ == "__main__":
    start("cache")
