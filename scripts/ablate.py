"""Compare cells of options over several seeds: `gatedcir ablate` by its published name."""

from gatedcir.commands.ablate import main
from gatedcir.commands.main import start

__all__ = ["main"]

if __name__ == "__main__":
    start("ablate")
