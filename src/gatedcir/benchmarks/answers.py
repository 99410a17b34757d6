"""Answers in files: what anybody's model retrieved, read, checked and ranked.

The plain form of a file is `{"query id": ["best image", "next image", ...]}`. A data set may have
other forms, which its `Benchmark.read_answers` turns into the plain one.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gatedcir.benchmarks.ranks import Indices
from gatedcir.data.triplets import Split
from gatedcir.errors import UserError

_SHOWN = 3  # names in a message
_BEYOND = np.iinfo(np.int64).max  # the rank of a target that a list lacks

Lists = Mapping[str, list[str]]
"""A query's id -> the images' names, best first."""


@dataclass(frozen=True)
class Given:
    """What files answer: over the whole gallery, and over image groups."""

    lists: Lists = field(default_factory=dict)
    groups: Lists = field(default_factory=dict)


ReadAnswers = Callable[[Any, Sequence[Split]], Given]
"""A JSON file's content and the parts of a split -> what it answers."""


@dataclass(frozen=True)
class Rules:
    """What a test server wants of every query.

    Attributes:
        length: the number of names.
        group_length: the number of names of its image group; 0 where there are no groups.
        exactly: whether more names are refused.
        most_bytes: of a file; None for no limit.
    """

    length: int = 1
    group_length: int = 0
    exactly: bool = False
    most_bytes: int | None = None


ANY = Rules()


@dataclass(frozen=True)
class Listed:
    """The answers of files to one part of a split. See `benchmarks.base.Answers`.

    Ranks are empty where no lists of their kind were given.
    """

    split: Split
    given: Given

    def names(self, query: int) -> list[str]:
        """The listed images, best first, without the reference if the protocol says so."""
        return self._kept(self.given.lists, query)

    def group_names(self, query: int) -> list[str]:
        """The listed images of the group, best first."""
        return self._kept(self.given.groups, query)

    @property
    def target_ranks(self) -> Indices:
        """0-based rank of every query's target."""
        return self._ranks(self.given.lists)

    @property
    def group_ranks(self) -> Indices:
        """0-based rank of every query's target in its image group."""
        return self._ranks(self.given.groups)

    @property
    def shortest(self) -> int:
        """The fewest names that a query has."""
        return min(map(len, (self.given.lists or self.given.groups).values()))

    def _kept(self, lists: Lists, query: int) -> list[str]:
        triplet = self.split.triplets[query]
        removed = triplet.reference if self.split.reference_removed else None
        return [name for name in lists.get(triplet.query_id, ()) if name != removed]

    def _ranks(self, lists: Lists) -> Indices:
        ranks = [
            names.index(triplet.target) if triplet.target in names else _BEYOND
            for query, triplet in enumerate(self.split.triplets)
            if triplet.query_id in lists
            for names in [self._kept(lists, query)]
        ]
        return np.array(ranks, dtype=np.int64)


def plain(content: Any, splits: Sequence[Split]) -> Given:
    """The answers of a file in the plain form.

    Raises:
        UserError: it has another form.
    """
    if not isinstance(content, dict) or not content:
        raise UserError('must hold an object such as {"query id": ["best image", "next image"]}')
    for query, names in content.items():
        if not isinstance(names, list) or not all(isinstance(n, str | int) for n in names):
            raise UserError(f"must hold a list of image names for query {query}")
    return Given({query: [str(name) for name in names] for query, names in content.items()})


def read_answers(
    files: Iterable[Path], splits: Sequence[Split], read: ReadAnswers = plain
) -> list[Listed]:
    """The answers of files to the parts of a split. Parts that no file answers are left out.

    Every query of a part must have a list, of different images.

    Raises:
        UserError: a file is missing or has another form; queries are missing, unknown or answered
            twice; a list repeats an image, or names one that is not in the gallery or group.
    """
    lists: dict[str, list[str]] = {}
    groups: dict[str, list[str]] = {}
    files = list(files)
    for file in files:
        if not file.exists():
            raise UserError(f"there are no predictions {file}; check the path.")
        try:
            given = read(_content(file), splits)
        except UserError as error:
            raise UserError(f"the predictions {file} {error}; correct the file.") from None
        for found, all_found in ((given.lists, lists), (given.groups, groups)):
            if twice := found.keys() & all_found.keys():
                raise UserError(f"{file} answers query {min(twice)}, as another file does.")
            all_found.update(found)
    where = " and ".join(map(str, files))
    _check_known([*lists, *groups], splits, where)
    answers = []
    for split in splits:
        ids = [triplet.query_id for triplet in split.triplets]
        part = Given(*({i: x[i] for i in ids if i in x} for x in (lists, groups)))
        if part.lists or part.groups:
            _check_part(split, part, where)
            answers.append(Listed(split, part))
    return answers


def check_rules(answers: Iterable[Listed], rules: Rules) -> None:
    """UserError unless the answers keep a test server's rules."""
    for each in answers:
        kinds = ((each.given.lists, rules.length), (each.given.groups, rules.group_length))
        for triplet in each.split.triplets:
            for names, length in ((lists.get(triplet.query_id), n) for lists, n in kinds):
                what = f"query {triplet.query_id} of {each.split.name}"
                if names is None:
                    continue
                if len(names) < length or (rules.exactly and len(names) > length):
                    most = "" if rules.exactly else " at least"
                    wanted = f"the server wants{most} {length}"
                    raise UserError(f"{what} has {len(names)} names; {wanted}.")
                if each.split.reference_removed and triplet.reference in names:
                    raise UserError(f"{what} ranks its own reference {triplet.reference}.")


def check_size(file: Path, rules: Rules) -> None:
    """UserError if a file is larger than its server takes."""
    size = file.stat().st_size
    if rules.most_bytes is not None and size > rules.most_bytes:
        raise UserError(
            f"{file} has {size} bytes, more than the server's {rules.most_bytes}; write it "
            "without spaces."
        )


def _content(file: Path) -> Any:
    """The JSON of a file. A key that stands twice would hide an answer, so it is refused."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            raise UserError(f"repeats the key {next(k for k in keys if keys.count(k) > 1)}")
        return found

    try:
        return json.loads(file.read_bytes(), object_pairs_hook=once)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot be read as JSON ({error})") from None


def _check_known(queries: Sequence[str], splits: Sequence[Split], where: str) -> None:
    known = {triplet.query_id for split in splits for triplet in split.triplets}
    names = " and ".join(split.name for split in splits)
    unknown = list(dict.fromkeys(query for query in queries if query not in known))
    if unknown:
        raise UserError(
            f"{where} answers {len(unknown)} queries that {names} does not have "
            f"({_some(unknown)}); name the data set and the split that it answers."
        )


def _check_part(split: Split, given: Given, where: str) -> None:
    gallery = set(split.gallery)
    for lists, kind in ((given.lists, ""), (given.groups, " for the groups")):
        if not lists:
            continue
        asked = (t for t in split.triplets if t.group or not kind)
        missing = [t.query_id for t in asked if t.query_id not in lists]
        if missing:
            raise UserError(
                f"{where} lacks {len(missing)} of the {len(split.triplets)} queries of "
                f"{split.name}{kind} ({_some(missing)}); answer all of them, or choose another "
                "split."
            )
        for triplet in split.triplets:
            names = lists.get(triplet.query_id, [])
            what = f"{where}: the list of query {triplet.query_id} of {split.name}{kind}"
            if len(set(names)) < len(names):
                raise UserError(f"{what} repeats an image; list each only once.")
            known = set(triplet.group) if kind else gallery
            if known and (unknown := [name for name in names if name not in known]):
                place = "image group" if kind else "gallery"
                raise UserError(
                    f"{what} names {_some(unknown)}, not in its {place}; write names as the "
                    "annotations do."
                )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
