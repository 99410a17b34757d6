"""Whether a model judges the first images of a search again, as --rerank asks."""

import sys
from collections.abc import Sequence

from gatedcir.options.parsing import is_given


def say_without_judge(most: int, argv: Sequence[str] | None, *, judges: bool) -> None:
    """Say that the --rerank of a command line has no effect on a model that cannot."""
    if most and not judges and is_given("--rerank", argv):
        print(
            f"--rerank {most} has no effect, because the model has no matcher; training with "
            "--stage rerank gives it one",
            file=sys.stderr,
        )
