"""What an option's field may be marked with, in its annotation."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, TypeVar

from gatedcir.plugins import is_path

FREE_ON_RESUME = "free on resume"  # marks what may change when a run goes on
MAY_BE_PATH = "may be a path"  # marks a str in which ~ and $VARIABLES are replaced, as in a Path
SELDOM = "seldom needed"  # marks what --help-all alone shows
Value = TypeVar("Value")
Seldom = Annotated[Value, SELDOM]
OF_RUN = "of the run"  # marks what the model's run says if no flag names a dataset


@dataclass(frozen=True, eq=False)
class OneOf:
    """Marks a str that names an entry of a table, or an object of your own by a dotted path."""

    names: Collection[str]
    example: str
    """Such a path."""
    file: str = ""
    """A file's name as another example, where files are taken too."""
    is_file: Callable[[str], bool] | None = None
    """Whether a value has the form of such a file."""

    @property
    def metavar(self) -> str:
        """How the value is written, for help."""
        return "|".join(filter(None, (f"{{{','.join(self.names)}}}", self.example, self.file)))

    @property
    def paths(self) -> str:
        """The examples, for messages."""
        return " or ".join(filter(None, (self.example, self.file)))

    def takes(self, value: str) -> bool:
        """Whether it is a name of the table or has the form of a path."""
        is_file = self.is_file is not None and self.is_file(value)
        return value in self.names or is_path(value) or is_file


@dataclass(frozen=True)
class Range:
    """Marks a number that is finite: its least value, and a value that it stays below."""

    least: float = -math.inf
    below: float = math.inf

    def holds(self, value: float) -> bool:
        """Whether a number is allowed. NaN and infinity never are."""
        return math.isfinite(value) and self.least <= value < self.below

    def __str__(self) -> str:
        """What is allowed, for messages.

        >>> print(Range(1), Range(0, below=1), Range(), sep="; ")
        of 1 or more; of 0 or more, and less than 1; that is finite
        """
        if self.least == -math.inf:
            return "that is finite"
        below = "" if self.below == math.inf else f", and less than {self.below}"
        return f"of {self.least} or more{below}"
