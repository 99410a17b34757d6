"""How fast the feature cache writes and reads, compared with the disk and the memory.

Features are random and of a real size, so that the figures do not include a tower's time. All rates
are measured in one run on one disk. Rates of a shared machine differ between runs, so only the
ratios tell about the cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatedcir.errors import run_command
from gatedcir.options.parsing import parse


@dataclass(frozen=True)
class Options:
    """The size of the features, and the place to write them."""

    folder: Path
    """Existing folder on the disk to measure. Files written there are removed again."""
    images: int = 384
    """Images whose features are written."""
    tokens: int = 257
    """Visual tokens of an image. 257 is ViT-g at 224 px."""
    width: int = 1408
    """Numbers a token, of two bytes each. 1408 is ViT-g's."""
    batch_size: int = 64
    """Images a batch, drawn at random."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table of the measurements."""
    options = parse(Options, argv, description="Measure the feature cache.")
    from cache_rates import report

    report(options)


if __name__ == "__main__":
    run_command(main)
