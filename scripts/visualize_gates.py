"""Draw gate maps: `gatedcir gates` by its published name."""

from gatedcir.commands.gates import main
from gatedcir.commands.main import start

__all__ = ["main"]

if __name__ == "__main__":
    start("gates")
