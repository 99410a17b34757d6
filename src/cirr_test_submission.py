"""Write the files of a test server: `gatedcir submit` by its published name."""

from gatedcir.commands.main import start
from gatedcir.commands.submit import main

__all__ = ["main"]

if __name__ == "__main__":
    start("submit")
