"""The parts of a data set as far as they can be read: what is wrong is noted, and reading goes on.

The readers of `benchmarks` end at the first mistake. These go through all entries. A data set
without an entry in `FORMS` is read by its own reader, which names its first mistake.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from gatedcir.benchmarks import circo, fashioniq
from gatedcir.benchmarks.base import Choice
from gatedcir.benchmarks.cirr_files import image_files
from gatedcir.benchmarks.layouts import check_layout
from gatedcir.benchmarks.own import is_own
from gatedcir.benchmarks.registry import benchmark
from gatedcir.data import annotations
from gatedcir.data.image_files import Listings
from gatedcir.doctor.findings import Findings
from gatedcir.doctor.own_form import read_own
from gatedcir.doctor.parts import ALL, Asked, Entry, Part, repeated
from gatedcir.errors import UserError
from gatedcir.plugins import errors_of

Value = TypeVar("Value")


def read_dataset(
    dataset: str, root: Path, notes: Findings, *, images: bool
) -> tuple[list[Part], list[str]]:
    """All parts of a data set, and the names of the splits that are not there.

    Args:
        dataset: a name of `BENCHMARKS`, or a path.
        root: its folder.
        notes: gets what is wrong.
        images: whether the images must be there. Without them CIRCO's list of them may be missing.

    Raises:
        UserError: the folder is no such data set, or holds no split at all.
    """
    found = benchmark(dataset)
    check_layout(found, root)
    form = read_own if is_own(dataset) else FORMS.get(found.name, _by_reader)
    parts, absent = [], []
    asked = Asked(dataset, found, root, notes, Listings(), images)
    for split in found.splits:
        read = form(asked, split)
        parts += read or []
        if read is None:
            absent.append(split)
    if not parts and not notes:
        raise UserError(
            f"{root} holds no annotations of {found.name}; name its folder with --data-path."
        )
    return parts, absent


def _cirr(asked: Asked, split: str) -> list[Part] | None:
    root, notes = asked.root, asked.notes
    file = root / "cirr" / "captions" / f"cap.rc2.{split}.json"
    listing = root / "cirr" / "image_splits" / f"split.rc2.{split}.json"
    if not _any_is_there(file, listing):
        return None
    images = {
        name: Path(path)
        for name, path in _read(listing, dict, notes).items()
        if isinstance(_value({name: path}, name, str, f"file {listing}", notes), str)
    }
    entries = []
    for number, entry in enumerate(_read(file, list, notes)):
        value = partial(_value, entry, where=f"entry {number} of {file}", notes=notes)
        image_set = value("img_set", dict) or {}
        where = f"img_set of entry {number} of {file}"
        members = _value(image_set, "members", list, where, notes) if image_set else None
        if image_set:
            _value(image_set, "id", int, where, notes)
        entries.append(
            Entry(
                f"entry {number} of {file}",
                value("pairid", int),
                value("reference", str),
                () if split == "test1" else _one(value("target_hard", str)),
                _one(value("caption", str)),
                _all_of(str, members, where, notes),
            )
        )
    part = Part(f"CIRR {split}", split == "train", entries, tuple(images), ALL)
    part.paths = _found(images, lambda some: image_files(root, some, asked.listings), notes)
    return [part]


def _fashioniq(asked: Asked, split: str) -> list[Part] | None:
    root, notes = asked.root, asked.notes
    parts = []
    for category in fashioniq.CATEGORIES:
        file = root / "captions" / f"cap.{category}.{split}.json"
        listing = root / "image_splits" / f"split.{category}.{split}.json"
        if not _any_is_there(file, listing):
            continue
        gallery = _all_of(str, _read(listing, list, notes), f"file {listing}", notes)
        for name in repeated(gallery):
            notes.note("wrong entry", str(listing), f"lists the image {name} twice")
        entries = []
        for number, entry in enumerate(_read(file, list, notes)):
            where = f"entry {number} of {file}"
            value = partial(_value, entry, where=where, notes=notes)
            captions = value("captions", list)
            if captions is not None and len(captions) != 2:
                notes.note("wrong entry", where, f"has {len(captions)} captions, not two")
            targets = () if split == "test" else _one(value("target", str))
            texts = _all_of(str, captions, where, notes)
            query = f"{category}-{number}"
            entries.append(Entry(where, query, value("candidate", str), targets, texts))
        listed = frozenset({"target"} if split == "val" else ())
        name = f"FashionIQ {category} {split}"
        part = Part(name, split == "train", entries, tuple(dict.fromkeys(gallery)), listed)
        names = dict.fromkeys((*part.gallery, *(part.used if entries else ())), Path())
        find = partial(_fashioniq_files, root / "images", category, asked.listings)
        part.paths = _found(names, find, notes)
        parts.append(part)
    return parts or None


def _fashioniq_files(
    folder: Path, category: str, listings: Listings, names: Iterable[str]
) -> dict[str, Path]:
    return fashioniq.image_files(folder, category, tuple(names), listings)


def _circo(asked: Asked, split: str) -> list[Part] | None:
    root, notes = asked.root, asked.notes
    file = circo.first_there(root, [f"{folder}/{split}.json" for folder in circo.ANNOTATIONS])
    if not file.is_file():
        return None
    entries = []
    for number, entry in enumerate(_read(file, list, notes)):
        where = f"entry {number} of {file}"
        value = partial(_value, entry, where=where, notes=notes)
        targets: tuple[str, ...] = ()
        if split != "test":
            labelled, others = value("target_img_id", int), value("gt_img_ids", list)
            if labelled is not None and others is not None and labelled not in others:
                notes.note("wrong entry", where, "lacks its target_img_id in gt_img_ids")
            numbers = _all_of(int, others, where, notes)
            targets = tuple(map(str, dict.fromkeys((*_one(labelled), *numbers))))
        captions, reference = value("relative_caption", str), value("reference_img_id", int)
        shown = None if reference is None else str(reference)
        entries.append(Entry(where, value("id", int), shown, targets, _one(captions)))
    paths: dict[str, Path] = {}
    if asked.images or circo.first_there(root, circo.IMAGE_LISTS).is_file():
        with notes.of("broken file", str(root)):
            paths = circo.listed_files(root, asked.listings, search=True)
    listed = frozenset({"reference", "target"} if paths else ())
    return [Part(f"CIRCO {split}", False, entries, tuple(paths), listed, paths)]


def _by_reader(asked: Asked, split: str) -> list[Part] | None:
    """Parts as the data set's own reader gives them, and its first mistake."""
    parts: list[Part] = []
    found, trains = asked.found, split == asked.found.training_split
    with (
        asked.notes.of("broken file", f"{found.name} {split}"),
        errors_of(found.name, what="the reader of", code=found.read),
    ):
        choice = Choice(ranked=not trains)
        for read in found.read(asked.root, split, choice=choice, listings=asked.listings):
            entries = [
                Entry(
                    f"query {t.query_id} of {read.name}",
                    t.query_id,
                    t.reference,
                    t.targets,
                    t.captions,
                    t.group,
                )
                for t in read.triplets
            ]
            listed = frozenset(() if trains else ("target", "group"))
            parts.append(Part(read.name, trains, entries, read.gallery, listed, read.paths))
    return parts or None


def _any_is_there(*files: Path) -> bool:
    return any(file.is_file() for file in files)


def _read(file: Path, kind: type[Value], notes: Findings) -> Value:
    """The content of an annotation file. Empty if it cannot be read."""
    if not file.is_file():
        notes.note("broken file", str(file), "is missing")
        return kind()
    with notes.of("broken file", str(file)):
        return annotations.read_json(file, kind, layout="as docs/data.md shows it")
    return kind()


def _value(entry: object, key: str, kind: type[Value], where: str, notes: Findings) -> Value | None:
    with notes.of("wrong entry", where):
        return annotations.field(entry, key, kind, where=where)
    return None


def _one(value: Value | None) -> tuple[Value, ...]:
    return () if value is None else (value,)


def _all_of(
    kind: type[Value], values: Iterable[object] | None, where: str, notes: Findings
) -> tuple[Value, ...]:
    """The values of a kind among some. Others are noted."""
    for value in values or ():
        if not isinstance(value, kind):
            notes.note("wrong entry", where, f"holds {value!r} where a {kind.__name__} must be")
    return tuple(value for value in values or () if isinstance(value, kind))


def _found(
    images: Mapping[str, Path],
    find: Callable[[Mapping[str, Path]], dict[str, Path]],
    notes: Findings,
) -> dict[str, Path]:
    """The files of all images. Those with two files are left out."""
    try:
        return find(images)
    except UserError:
        found: dict[str, Path] = {}
        for name, path in images.items():
            with notes.of("two files", name):
                found |= find({name: path})
        return found


FORMS: dict[str, Callable[[Asked, str], list[Part] | None]] = {
    "CIRR": _cirr,
    "FashionIQ": _fashioniq,
    "CIRCO": _circo,
}
