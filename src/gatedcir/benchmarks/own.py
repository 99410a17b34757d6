"""Triplets of your own: a file of lines or a folder with one for each split, and their images.

docs/data.md describes the keys. Images are named by their paths, which start at the file's folder.
"""

import json
import os
import random
import statistics
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gatedcir.benchmarks.answers import Given, plain
from gatedcir.benchmarks.base import (
    CUTOFFS,
    GROUP_CUTOFFS,
    MAP_CUTOFFS,
    Answers,
    Benchmark,
    Choice,
    precisions,
)
from gatedcir.benchmarks.own_gallery import gallery_of
from gatedcir.benchmarks.own_lines import SPLITS, Line, Source, images_of
from gatedcir.benchmarks.ranks import recall_at
from gatedcir.data import triplets
from gatedcir.data.image_files import Listings
from gatedcir.data.rows import ENDINGS
from gatedcir.data.triplets import Split
from gatedcir.files import write_all


def is_own(name: str) -> bool:
    """Whether a data set's name is the path of a file or folder of triplets.

    >>> is_own("photos/mine.jsonl"), is_own("mine.csv"), is_own("CIRR")
    (True, True, False)
    """
    there = os.path.isdir(name) or ("/" in name and not os.path.isfile(name))  # noqa: PTH112, PTH113
    return there or Path(name).suffix in ENDINGS  # Path's own raise where a name is too long


def own(place: str, *, taken: Iterable[str] = ()) -> Benchmark:
    """The data set of a file or folder, which need not exist yet.

    It is named after the file or its folder. `taken` are names that it must not have.
    """
    path = Path(place)
    is_file = path.suffix in ENDINGS
    folder = path.parent if is_file else path
    name = path.stem if is_file and path.stem not in SPLITS else folder.resolve().name
    if name.lower() in (other.lower() for other in taken):
        name = f"own {name}"
    file = path.name if is_file else None
    return Benchmark(
        name=name,
        read=partial(_read, name=name, file=file),
        metrics=own_metrics,
        headline="recall_at10",
        headings={
            **{f"recall_at{k}": f"R@{k}" for k in CUTOFFS},
            **{f"map_at{k}": f"mAP@{k}" for k in MAP_CUTOFFS},
            **{f"group_recall_at{k}": f"Rs@{k}" for k in GROUP_CUTOFFS},
        },
        folder=folder,
        evaluation_text=evaluation_text,
        training_text=training_text,
        submission=_submit,
        read_answers=_read_answers,
        any_gallery=True,
    )


def evaluation_text(captions: tuple[str, ...]) -> str:
    """The text of a query: one as it is, several joined by "and", as FashionIQ's two are.

    >>> evaluation_text(("is red", "has dots.", "is longer"))
    'Is red and has dots and is longer'
    """
    first, *others = captions
    rest = " and ".join(text.strip(".?, ") for text in others)
    return triplets.evaluation_text((first, rest) if others else captions)


def training_text(captions: tuple[str, ...], rng: random.Random) -> str:
    """The text of a query in training. Of three or more, some are joined in any order."""
    if len(captions) <= 2:
        return triplets.training_text(captions, rng)
    return evaluation_text(tuple(rng.sample(captions, rng.randint(1, len(captions)))))


def own_metrics(answers: Sequence[Answers]) -> dict[str, float]:
    """Recall, mAP where a query has several targets, and recall in groups where there are some.

    With categories each metric is given for each, and as their unweighted mean.
    """
    each = {part.split.category: _part_metrics(part) for part in answers}
    if list(each) == [None]:
        return each[None]
    shared = [
        name for name in next(iter(each.values())) if all(name in found for found in each.values())
    ]
    return {
        **{
            f"{category}_{name}": v for category, found in each.items() for name, v in found.items()
        },
        **{name: statistics.mean(found[name] for found in each.values()) for name in shared},
    }


def _part_metrics(part: Answers) -> dict[str, float]:
    ranks, group_ranks = part.target_ranks, part.group_ranks
    found: dict[str, float] = {}
    if ranks.size:
        found = {f"recall_at{k}": recall_at(ranks, k) for k in CUTOFFS}
        if any(len(triplet.targets) > 1 for triplet in part.split.triplets):
            found |= {f"map_at{k}": 100 * float(precisions(part, k).mean()) for k in MAP_CUTOFFS}
    if group_ranks.size:
        found |= {f"group_recall_at{k}": recall_at(group_ranks, k) for k in GROUP_CUTOFFS}
    return found


def _read(
    root: Path, split: str, *, choice: Choice, listings: Listings, name: str, file: str | None
) -> list[Split]:
    """The split, or its categories, which are ranked apart."""
    source = Source(root, file, listings, ranked=choice.ranked)
    lines = source.lines(split)
    whole = ", all lines of its file" if file and not any(line.split for line in lines) else ""
    reference = "kept" if source.keeps_reference else "removed"
    parts = []
    for category, mine in _by_category(lines).items():
        gallery, kind = gallery_of(source, split, category, mine, choice)
        paths = {image: root / image for image in dict.fromkeys((*gallery, *images_of(mine)))}
        parts.append(
            Split(
                name=" ".join(filter(None, (name, category, split))),
                triplets=tuple(line.triplet for line in mine),
                gallery=tuple(gallery),
                paths=paths,
                protocol=f"gallery of {len(gallery)} images{kind}, reference {reference}, "
                f"{len(mine)} queries",
                reference_removed=not source.keeps_reference,
                category=category,
                searched=f"looked for them under their paths from {root}",
                note=whole,
            )
        )
    return parts


def _by_category(lines: Iterable[Line]) -> dict[str | None, list[Line]]:
    found: dict[str | None, list[Line]] = {}
    for line in lines:
        found.setdefault(line.category, []).append(line)
    return found


def _submit(folder: Path, split: str, answers: Sequence[Answers]) -> list[Path]:
    """What every query retrieved, in one file that `gatedcir score` reads."""
    content: dict[str, Any] = {"lists": {}, "groups": {}}
    for each in answers:
        for number, triplet in enumerate(each.split.triplets):
            content["lists"][triplet.query_id] = each.names(number)
            if triplet.group:
                content["groups"][triplet.query_id] = each.group_names(number)
    if not content["groups"]:
        content = content["lists"]
    return write_all(folder, {f"predictions.{split}.json": json.dumps(content).encode()})


def _read_answers(content: Any, splits: Sequence[Split]) -> Given:
    """The file of `_submit`, or the plain form."""
    if isinstance(content, dict) and content.keys() == {"lists", "groups"}:
        lists, groups = (_plain(content[key], splits) for key in ("lists", "groups"))
        return Given(lists, groups)
    return Given(_plain(content, splits))


def _plain(content: Any, splits: Sequence[Split]) -> dict[str, list[str]]:
    lists = plain(content, splits).lists
    return {
        query: [Path(os.path.normpath(n)).as_posix() for n in names]
        for query, names in lists.items()
    }
