"""What became of the files of a folder when they were indexed."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from gatedcir.data.left_out import NAMES_SHOWN
from gatedcir.errors import UserError


@dataclass
class Report:
    """What became of the files."""

    counts: Counter[str] = field(default_factory=Counter)
    """How many files are new, changed, renamed, deleted, missing, unchanged or duplicates."""
    missing: list[Path] = field(default_factory=list)
    """Files that the folder does not hold any more, and the index still does."""
    broken: dict[Path, str] = field(default_factory=dict)
    """Files that cannot be read, and why."""
    encoded: int = 0
    """Images that went through the model."""

    def __str__(self) -> str:
        parts = [f"{count} {name}" for name, count in sorted(self.counts.items()) if count]
        parts += [f"{len(self.broken)} broken"] * bool(self.broken)
        return f"{', '.join(parts) or 'nothing to do'}; {self.encoded} images encoded"

    def broken_files(self) -> str:
        """How many files are broken, and the first of them."""
        shown = [f"{path} ({_short(why)})" for path, why in self.broken.items()][:NAMES_SHOWN]
        more = ", ..." if len(self.broken) > NAMES_SHOWN else ""
        files = "1 file" if len(self.broken) == 1 else f"{len(self.broken)} files"
        return f"{files} cannot be read: {', '.join(shown)}{more}"

    def missing_files(self) -> str:
        """How many files have vanished, the first of them, and that they are kept."""
        shown = ", ".join(map(str, self.missing[:NAMES_SHOWN]))
        more = ", ..." if len(self.missing) > NAMES_SHOWN else ""
        files = "1 file is" if len(self.missing) == 1 else f"{len(self.missing)} files are"
        return f"{files} gone, but still in the index: {shown}{more}"

    def check(self, *, skip_broken: bool, way_out: str) -> None:
        """UserError if files are broken and may not be left out."""
        if self.broken and not skip_broken:
            rest = (
                "all others are in the index" if any(self.counts.values()) else "no other is there"
            )
            raise UserError(f"{self.broken_files()}; {rest}; replace what is broken, or {way_out}.")


def _short(why: str) -> str:
    """The reason in the error of an image.

    >>> _short("The image a.jpg cannot be read (image file is truncated); replace the file by ...")
    'image file is truncated'
    """
    start = why.partition("; ")[0]
    inner = start.partition("cannot be read ")[2].strip("(): ")
    return inner or start
