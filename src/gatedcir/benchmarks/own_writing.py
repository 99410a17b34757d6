"""Splits of any data set -> files of triplets, as your own are written."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gatedcir.benchmarks.own_gallery import GALLERY
from gatedcir.benchmarks.own_lines import SETTINGS
from gatedcir.data.triplets import Split, Triplet


def files_of(parts: Sequence[Split], split: str, output: Path) -> dict[str, str]:
    """The names and contents of a split's files: its triplets, its gallery, and settings.

    Args:
        parts: of one split, in the order in which they are ranked.
        split: train, val or test.
        output: the folder of the files. Images are named by their paths from there.
    """
    lines = [line for part in parts for line in _lines(part, output)]
    images = [image for part in parts for image in _gallery(part, output)]
    reference = "removed" if parts[0].reference_removed else "kept"
    return {
        f"{split}.jsonl": _jsonl(lines),
        f"{split}{GALLERY}.jsonl": _jsonl(images),
        SETTINGS: json.dumps({"reference": reference}) + "\n",
    }


def _lines(part: Split, output: Path) -> Iterator[dict[str, Any]]:
    names = _names(part, output)
    for triplet in part.triplets:
        line = {
            "id": triplet.query_id,
            "reference": names[triplet.reference],
            "text": _text(triplet),
            "target": _one_or_more([names[name] for name in triplet.targets]),
            "candidates": [names[name] for name in triplet.group],
            "category": part.category,
        }
        yield {key: value for key, value in line.items() if value or key == "text"}


def _gallery(part: Split, output: Path) -> Iterator[dict[str, str]]:
    names = _names(part, output)
    for name in part.gallery:
        yield {"image": names[name]} | ({"category": part.category} if part.category else {})


def _names(part: Split, output: Path) -> dict[str, str]:
    """The path of each image from the folder of the files."""
    start = output.absolute()
    return {
        name: Path(os.path.relpath(path.absolute(), start)).as_posix()
        for name, path in part.paths.items()
    }


def _text(triplet: Triplet) -> Any:
    """Its texts. None stands for a query without any."""
    if not any(text.strip() for text in triplet.captions):
        return None
    return _one_or_more(list(triplet.captions))


def _one_or_more(values: list[str]) -> Any:
    return values[0] if len(values) == 1 else values


def _jsonl(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
