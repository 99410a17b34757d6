"""The lines of your own triplets: read from a file or from one for each split, and checked."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from gatedcir.data.annotations import read_json
from gatedcir.data.image_files import Listings
from gatedcir.data.rows import ENDINGS, Row, read_rows, text_of, texts_of
from gatedcir.data.triplets import Triplet
from gatedcir.errors import UserError

SPLITS = ("train", "val", "test")
LISTS = ("text", "target", "candidates", "negatives")
KEYS = ("id", "reference", *LISTS, "split", "category")
SETTINGS = "dataset.json"
REFERENCE = ("removed", "kept")


class Line(NamedTuple):
    """One line of a file."""

    number: int
    triplet: Triplet
    negatives: tuple[str, ...]
    split: str | None
    category: str | None


@dataclass(frozen=True)
class Source:
    """The files of a data set."""

    root: Path
    file: str | None
    """The only file. Without it, each split has one."""
    listings: Listings
    ranked: bool
    """Whether all lines may be ranked, those for training too."""

    @cached_property
    def keeps_reference(self) -> bool:
        """Whether the reference stays in its own ranking, as the settings say."""
        file = self.root / SETTINGS
        if not file.is_file():
            return False
        found = read_json(file, dict, layout=SETTINGS)
        if found.keys() - {"reference"} or found.get("reference", "removed") not in REFERENCE:
            raise UserError(
                f'{file} may only hold {{"reference": "removed" or "kept"}}; correct it.'
            )
        return found.get("reference") == "kept"

    def place(self, split: str) -> Path | None:
        """The file of a split, if there is one."""
        if self.file is not None:
            return self.root / self.file
        found = [path for path in self._places(split) if path.is_file()]
        if len(found) > 1:
            raise UserError(
                f"{self.root} has both {found[0].name} and {found[1].name}; keep one of them."
            )
        return found[0] if found else None

    def _places(self, split: str) -> list[Path]:
        return [self.root / f"{split}{ending}" for ending in ENDINGS]

    def lines(self, split: str) -> list[Line]:
        """The lines of a split. UserError if there are none."""
        found = self.lines_if_any(split)
        if not found and self.file is None:
            names = ", ".join(path.name for path in self._places(split))
            raise UserError(
                f"{self.root} has no lines of the split {split}; write them to one of {names}, or "
                "choose another split (training can do without validation)."
            )
        if not found:
            raise UserError(
                f'{self.place(split)} has no lines of the split {split}; write "split": "{split}" '
                "into some, or choose another split (training can do without validation)."
            )
        return found

    def lines_if_any(self, split: str) -> list[Line]:
        """The lines of a split.

        If no line of the only file names a split, all are for training, or all are ranked.
        """
        path = self.place(split)
        if path is None:
            return []
        seen: set[str] = set()

        def parse(row: Row, number: int) -> Line:
            line = line_of(row, number, keeps_reference=self.keeps_reference)
            query = line.triplet.query_id
            if query in seen:
                raise ValueError(f"has the id {query} of another line")
            seen.add(query)
            if self.file is None and line.split not in (None, split):
                raise ValueError(f"is of the split {line.split}, in the file of {split}")
            if (line.split or split) == "train" and not self.ranked and not line.triplet.targets:
                raise ValueError("has no target, which training needs")
            return line

        lines = read_rows(path, KEYS, parse, lists=LISTS)
        _check_all_or_none(path, lines, "category")
        if self.file is None:
            return lines
        if _check_all_or_none(path, lines, "split"):
            return [line for line in lines if line.split == split]
        return lines if self.ranked or split == "train" else []


def _check_all_or_none(file: Path, lines: Sequence[Line], key: str) -> bool:
    """Whether lines have a key. UserError if only some have it."""
    bare = [line.number for line in lines if getattr(line, key) is None]
    if bare and len(bare) < len(lines):
        raise UserError(
            f"line {bare[0]} of {file} has no {key}, and others have one; give each line its own."
        )
    return not bare


def images_of(lines: Iterable[Line]) -> list[str]:
    """All images that lines name, each once."""
    found: dict[str, None] = {}
    for line in lines:
        triplet = line.triplet
        images = (triplet.reference, *triplet.targets, *triplet.group, *line.negatives)
        found |= dict.fromkeys(images)
    return list(found)


def line_of(row: Row, number: int, *, keeps_reference: bool) -> Line:
    """A line's triplet. ValueError says what is wrong with it."""
    reference = name_of(text_of(row, "reference"))
    targets, candidates, negatives = (_images(row, key) for key in LISTS[1:])
    for key, images in (("target", targets), ("negatives", negatives)):
        if reference in images and not (keeps_reference and key == "target"):
            raise ValueError(f"names its reference as {key}")
    if both := set(targets) & set(negatives):
        raise ValueError(f"names {min(both)} as target and as negatives")
    if candidates and targets and targets[0] not in candidates:
        raise ValueError("has candidates without its first target")
    if candidates and len(set(candidates) - {reference}) < 2:
        raise ValueError("has candidates that leave no choice")
    split = row.get("split")
    if split is not None and split not in SPLITS:
        raise ValueError(f"has the split {split} (it may be {', '.join(SPLITS)})")
    category = text_of(row, "category") if "category" in row else None
    triplet = Triplet(
        query_id=text_of(row, "id") if "id" in row else str(number),
        reference=reference,
        targets=targets,
        captions=_captions(row),
        group=candidates,
        pool=" ".join(sorted(candidates)) or category or "",
    )
    return Line(number, triplet, negatives, split, category)


def name_of(image: str) -> str:
    """An image's name: its path without detours."""
    if "://" in image:
        raise ValueError(f"names the address {image} (download it, and name the file)")
    return Path(os.path.normpath(image)).as_posix()


def _captions(row: Row) -> tuple[str, ...]:
    """The texts of a line. One of several may be empty, and null stands for no text at all."""
    if "text" in row and row["text"] is None:
        return ("",)
    texts = row.get("text")
    if not isinstance(texts, list):
        return (text_of(row, "text"),)
    if all(isinstance(text, str) and not text.strip() for text in texts):
        raise ValueError("has no text")
    return tuple(
        text if not str(text).strip() else text_of({"text": text}, "text") for text in texts
    )


def _images(row: Row, key: str) -> tuple[str, ...]:
    """The images of a key that may have several."""
    found = tuple(map(name_of, texts_of(row, key)))
    if len(set(found)) < len(found):
        raise ValueError(f"names an image twice as {key}")
    return found
