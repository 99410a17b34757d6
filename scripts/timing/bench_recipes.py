"""Cost of each recipe next to ordinary training: triplets a second and peak memory, in one run.

Every recipe is trained by the command itself, in a process of its own, on scenes drawn for it and
from cached features. The first epoch is not counted, because it also makes the bank and finds the
hardest images. Reranking is timed by the evaluation, for each query.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from gatedcir.errors import run_command
from gatedcir.options.marks import Range
from gatedcir.options.parsing import parse


@dataclass(frozen=True)
class Options:
    """What is measured."""

    backbone: str = "tiny"
    """As for training."""
    triplets: Annotated[int, Range(8)] = 2048
    """Training triplets. Their images are the bank."""
    queries: Annotated[int, Range(1)] = 200
    """Queries that are reranked."""
    batch_size: Annotated[int, Range(2)] = 64
    epochs: Annotated[int, Range(2)] = 3
    """Epochs of each recipe. The median of all but the first counts."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the recipes and print the table."""
    options = parse(Options, argv, description=__doc__)
    from recipe_costs import report

    report(options)


if __name__ == "__main__":
    run_command(main)
