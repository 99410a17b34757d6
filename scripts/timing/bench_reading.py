"""How fast files become the model's input: JPEGs in full, as drafts, and copies made beforehand.

The pictures are noise at two frequencies. Files are decoded, resized and normalised one by one, in
this process. They are read from the system's copy in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gatedcir.errors import run_command
from gatedcir.options.parsing import parse


@dataclass(frozen=True)
class Options:
    """Which pictures are read."""

    width: int = 1024
    """Of each picture, in pixels."""
    height: int = 1024
    """Of each picture, in pixels."""
    images: int = 8
    """How many pictures."""
    size: int = 224
    """Side of the model's input in pixels."""
    repeats: int = 5
    """Timed passes over the pictures. The shortest counts."""


def main(argv: Sequence[str] | None = None) -> None:
    """Time the three ways and say how far they differ from the first."""
    options = parse(Options, argv, description="Measure how fast images are read.")
    from reading_rates import report

    report(options)


if __name__ == "__main__":
    run_command(main)
