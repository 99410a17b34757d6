"""Time and memory of ranking a gallery from features, against the naive expression.

The naive expression multiplies every query with every image by broadcasting and sorts all
similarities. It finds references and targets by comparing matrices of names. It is measured on some
of the queries, and its time for all of them is extrapolated in proportion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gatedcir.errors import run_command
from gatedcir.options.parsing import parse


@dataclass(frozen=True)
class Options:
    """The size of the problem. The defaults are CIRR's validation split."""

    queries: int = 4181
    """Queries to rank for."""
    images: int = 2297
    """Images of the gallery."""
    tokens: int = 32
    """Features of an image."""
    width: int = 256
    """Numbers of a feature."""
    members: int = 6
    """Images of a query's group."""
    naive_queries: int = 64
    """Queries of the naive expression."""
    repeats: int = 3
    """Timed runs of each kind. The shortest counts."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both and print the table."""
    options = parse(Options, argv, description="Time ranking a gallery from features.")
    from ranking_times import report

    report(options)


if __name__ == "__main__":
    run_command(main)
