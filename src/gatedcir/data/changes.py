"""What truly changes in the reference of each query, as a synthetic data set knows it.

It stands in one file for each split, `changes/SPLIT.json` in the data set's folder, next to the
published layout. A box is [left, top, right, bottom] in fractions of the image, (0, 0) the top left
corner. Nothing but measurements reads the file, so it is no part of a data set's fingerprint.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gatedcir.data.annotations import CORRECT, field, read_json
from gatedcir.errors import UserError

Box = tuple[float, float, float, float]
FOLDER = "changes"
MARK = "synthetic.json"  # marks a data set as drawn, not published
BACKGROUND, ANYWHERE = "background", "add anywhere"
LAYOUT = "ROOT/changes/SPLIT.json"


@dataclass(frozen=True)
class Change:
    """One change that a text asks for, and the places of the reference where it happens.

    A new thing's place is where it will stand. A move has the old and the new place, and so have
    two things that are swapped. A count has the places of the things that come or go. The kind
    `BACKGROUND` has one box, the whole image, and means all of it that shows no object. In the kind
    `ANYWHERE` the text leaves the place of a new thing open.
    """

    kind: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Swap:
    """Two texts that change different things of one image, and the places of the two things."""

    reference: str
    captions: tuple[tuple[str, ...], tuple[str, ...]]
    boxes: tuple[tuple[Box, ...], tuple[Box, ...]]


@dataclass(frozen=True)
class Changes:
    """All that is known of one split."""

    size: tuple[int, int]
    """Width and height of its images as they were drawn. Copies may have another size."""
    objects: Mapping[str, tuple[Box, ...]]
    """The boxes of all objects, by the name of a reference."""
    queries: Mapping[str, tuple[Change, ...]]
    """The changes that a query asks for, by its id."""
    swaps: tuple[Swap, ...] = ()


def file_of(root: Path, split: str) -> Path:
    """The file of a split, by the split's name.

    >>> file_of(Path("data"), "FashionIQ dress val").as_posix()
    'data/changes/FashionIQ-dress-val.json'
    """
    return root / FOLDER / f"{split.replace(' ', '-')}.json"


def write_changes(root: Path, split: str, changes: Changes) -> None:
    """Write the file of a split."""
    file = file_of(root, split)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(changes)), encoding="utf-8")


def read_changes(root: Path, split: str) -> Changes | None:
    """What is known of a split. None if its data set has no file of it.

    Raises:
        UserError: the file is damaged.
    """
    file = file_of(root, split)
    if not file.is_file():
        return None
    content = read_json(file, dict, layout=LAYOUT)
    where = f"file {file}"
    width, height = field(content, "size", list, where=where)
    return Changes(
        size=(width, height),
        objects={
            name: read_boxes(boxes, where=f"objects of {name} in {file}")
            for name, boxes in field(content, "objects", dict, where=where).items()
        },
        queries={
            query: tuple(_change(entry, where=f"query {query} of {file}") for entry in entries)
            for query, entries in field(content, "queries", dict, where=where).items()
        },
        swaps=tuple(_swap(entry, file) for entry in field(content, "swaps", list, where=where)),
    )


def known_changes(root: Path, splits: Iterable[str]) -> dict[str, Changes]:
    """What is known of some splits, by their names. Those without a file are left out.

    Raises:
        UserError: a file is damaged.
    """
    found = {split: read_changes(root, split) for split in splits}
    return {split: changes for split, changes in found.items() if changes is not None}


def read_boxes(boxes: object, *, where: str) -> tuple[Box, ...]:
    """A list of boxes as JSON has it. UserError names `where` if it is none.

    >>> read_boxes([[0, 0, 0.5, 1]], where="query 7")
    ((0.0, 0.0, 0.5, 1.0),)
    """
    if not isinstance(boxes, list):
        raise UserError(f"The {where} must hold a list of boxes, not {boxes!r}; {CORRECT}.")
    return tuple(_box(box, where=where) for box in boxes)


def _box(box: object, *, where: str) -> Box:
    if isinstance(box, list) and len(box) == 4 and all(_is_number(side) for side in box):
        left, top, right, bottom = map(float, box)
        if 0 <= left < right <= 1 and 0 <= top < bottom <= 1:
            return left, top, right, bottom
    raise UserError(
        f"The {where} must hold boxes [left, top, right, bottom] in fractions of the image, left "
        f"before right and top before bottom, not {box!r}; {CORRECT}."
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _change(entry: object, *, where: str) -> Change:
    boxes = read_boxes(field(entry, "boxes", list, where=where), where=where)
    return Change(field(entry, "kind", str, where=where), boxes)


def _swap(entry: object, file: Path) -> Swap:
    where = f"swaps of {file}"
    one, other = field(entry, "captions", list, where=where)
    here, there = field(entry, "boxes", list, where=where)
    return Swap(
        reference=field(entry, "reference", str, where=where),
        captions=(tuple(one), tuple(other)),
        boxes=(read_boxes(here, where=where), read_boxes(there, where=where)),
    )
