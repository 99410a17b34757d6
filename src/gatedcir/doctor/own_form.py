"""Your own triplets as far as they can be read: wrong lines are noted and left out."""

from functools import partial
from pathlib import Path

from gatedcir.benchmarks.base import Choice
from gatedcir.benchmarks.own_gallery import gallery_of
from gatedcir.benchmarks.own_lines import KEYS, LISTS, Line, Source, line_of
from gatedcir.data.rows import ENDINGS, each_row
from gatedcir.doctor.findings import Findings
from gatedcir.doctor.parts import Asked, Entry, Part


def read_own(asked: Asked, split: str) -> list[Part] | None:
    """A split of a file or folder of triplets.

    The lines of an only file that name no split count as training.
    """
    path = Path(asked.dataset)
    file = path.name if path.suffix in ENDINGS else None
    source = Source(asked.root, file, asked.listings, ranked=split != "train")
    place, keeps = None, False
    with asked.notes.of("broken file", str(asked.root)):
        place, keeps = source.place(split), source.keeps_reference
    if place is None or not place.is_file():
        return None
    lines: list[Line] = []
    with asked.notes.of("broken file", str(place)):
        lines = _lines(place, keeps, asked.notes)
    if file is None:
        for line in lines:
            if line.split not in (None, split):
                detail = f"is of the split {line.split}, in the file of {split}"
                asked.notes.note("wrong entry", f"line {line.number} of {place}", detail)
    mine = [line for line in lines if file is None or (line.split or "train") == split]
    if not mine:
        return None
    return [
        _part(asked, source, split, category, [each for each in mine if each.category == category])
        for category in dict.fromkeys(line.category for line in mine)
    ]


def _lines(place: Path, keeps_reference: bool, notes: Findings) -> list[Line]:
    parse = partial(line_of, keeps_reference=keeps_reference)
    lines = []
    for number, made in each_row(place, KEYS, parse, lists=LISTS):
        if isinstance(made, ValueError):
            notes.note("wrong entry", f"line {number} of {place}", str(made))
        else:
            lines.append(made)
    for key in ("category", "split"):
        bare = [line.number for line in lines if getattr(line, key) is None]
        for number in bare if len(bare) < len(lines) else ():
            detail = f"has no {key}, and others have one"
            notes.note("wrong entry", f"line {number} of {place}", detail)
    return lines


def _part(
    asked: Asked, source: Source, split: str, category: str | None, lines: list[Line]
) -> Part:
    place, trains = source.place(split), split == "train"
    entries = []
    for line in lines:
        triplet = line.triplet
        where = f"line {line.number} of {place}"
        if trains and not triplet.targets:
            asked.notes.note("wrong entry", where, "has no target, which training needs")
        entries.append(
            Entry(
                where,
                triplet.query_id,
                triplet.reference,
                triplet.targets,
                triplet.captions,
                triplet.group,
            )
        )
    gallery: list[str] = []
    with asked.notes.of("broken file", f"the gallery of {place}"):
        gallery, _ = gallery_of(source, split, category, lines, Choice(ranked=not trains))
    name = " ".join(filter(None, (asked.found.name, category, split)))
    listed = frozenset(() if trains else ("target", "group"))
    part = Part(name, trains, entries, tuple(gallery), listed)
    part.paths = {image: asked.root / image for image in dict.fromkeys((*gallery, *part.used))}
    return part
