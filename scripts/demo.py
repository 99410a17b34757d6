"""Everything once, on a bare machine: `gatedcir demo` by its published name."""

from gatedcir.commands.demo import main
from gatedcir.commands.main import start

__all__ = ["main"]

if __name__ == "__main__":
    start("demo")
