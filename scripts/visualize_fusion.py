"""Draw the visual fusion: `gatedcir fusion` by its published name."""

from gatedcir.commands.fusion import main
from gatedcir.commands.main import start

__all__ = ["main"]

if __name__ == "__main__":
    start("fusion")
