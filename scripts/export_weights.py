"""Take weights out: `gatedcir export` by its published name."""

from gatedcir.commands.export import main
from gatedcir.commands.main import start

__all__ = ["main"]

if __name__ == "__main__":
    start("export")
