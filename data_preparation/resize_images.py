"""Copy a data set with its images resized: `gatedcir resize` by its published name."""

from gatedcir.commands.main import start
from gatedcir.commands.resize import main

__all__ = ["main"]

if __name__ == "__main__":
    start("resize")
