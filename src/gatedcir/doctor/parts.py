"""The parts of a data set, as far as they could be read."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gatedcir.benchmarks.base import Benchmark
from gatedcir.data.image_files import Listings
from gatedcir.doctor.findings import Findings

ALL = frozenset({"reference", "target", "group"})  # of a triplet


class Asked(NamedTuple):
    """What is to be read."""

    dataset: str
    found: Benchmark
    root: Path
    notes: Findings
    listings: Listings
    images: bool


@dataclass(frozen=True)
class Entry:
    """A query, as far as it could be read."""

    place: str
    query: str | int | None
    reference: str | None
    targets: tuple[str, ...]
    captions: tuple[str, ...]
    group: tuple[str, ...] = ()


@dataclass
class Part:
    """A part of a split that is ranked by itself."""

    name: str
    trains: bool
    entries: list[Entry]
    gallery: tuple[str, ...]
    listed: frozenset[str]
    """What must be in the gallery."""
    paths: dict[str, Path] = field(default_factory=dict)

    @property
    def used(self) -> set[str]:
        """The images that training uses. Those of the gallery if no entry could be read."""
        named = {n for e in self.entries for n in (e.reference, *e.targets) if n is not None}
        return named or set(self.gallery)


def repeated(names: Iterable[str]) -> list[str]:
    """What comes more than once.

    >>> repeated("abca")
    ['a']
    """
    return [name for name, count in Counter(names).items() if count > 1]
