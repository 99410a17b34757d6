"""Draw a synthetic data set: `gatedcir synthetic` by its published name."""

from gatedcir.commands.main import start
from gatedcir.commands.synthetic import main

__all__ = ["main"]

if __name__ == "__main__":
    start("synthetic")
