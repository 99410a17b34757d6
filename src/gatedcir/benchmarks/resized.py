"""Copies of a dataset's images that are already padded, resized and cropped.

A copy is the square that the transform makes of an image, stored without loss. The transform leaves
a copy as it is. This saves work, and the model's input stays exactly the same.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from gatedcir.benchmarks.base import Copies
from gatedcir.benchmarks.places import Places
from gatedcir.benchmarks.registry import BENCHMARKS, benchmark
from gatedcir.children import workers
from gatedcir.data.transforms import Transform
from gatedcir.data.triplets import Split
from gatedcir.errors import UserError
from gatedcir.files import parse_json

NOTE = "resized.json"  # in the copied dataset's folder
_SETTING = re.compile(r"(\w+)='?(\([^)]*\)|[^,()']+)")  # in a transform's repr
_WORDS = {
    "kind": "transform",
    "size": "image size",
    "target_ratio": "target ratio",
    "draft": "draft mode",
    "reading": "version's reading of images",
}


class Copy(NamedTuple):
    """One image of the copied dataset."""

    path: Path
    refusal: str
    """Why it was left out. Empty if it was not."""


def annotation_files(source: Path) -> list[Path]:
    """All JSON files of a dataset's folder, also those in linked folders.

    Folders below it that hold resized copies are left out.
    """
    found: list[Path] = []
    for folder, folders, names in os.walk(source, followlinks=True):
        here = Path(folder)
        if NOTE in names and here != source:
            folders.clear()
            continue
        above = {path.resolve() for path in (here, *here.parents)}
        # Following a link to a folder above would never end.
        folders[:] = [name for name in folders if (here / name).resolve() not in above]
        files = [here / name for name in names if name.endswith(".json") and name != NOTE]
        found += [file for file in files if file.is_file()]
    return sorted(found)


def read_parts(dataset: str, source: Path, annotations: Iterable[Path]) -> dict[str, Split]:
    """Every split, or category of a split, that has its files, by the common part of their names.

    Images need not exist. Raises UserError as the readers do, and if no split has its files.
    """
    names = {path.name for path in annotations}
    readers = _copies_of(dataset).parts(source)
    there = {key for key in readers if {f"cap.{key}.json", f"split.{key}.json"} <= names}
    # If there are none, the first reader's error says what is expected.
    return {key: read() for key, read in readers.items() if key in there or not there}


def choose_places(dataset: str, source: Path, parts: Iterable[Split]) -> Places:
    """The place for the copy of every existing image file. Each file has its own place.

    Raises:
        UserError: none exists, or an image's name or file has no place.
    """
    paths = {item for part in parts for item in part.paths.items() if item[1].is_file()}
    if not paths:
        raise UserError(f"no image that the annotations name is in {source}; add them.")
    return _copies_of(dataset).places(sorted(paths), source)


def write_annotations(
    source: Path, target: Path, files: Iterable[Path], parts: Mapping[str, Split], places: Places
) -> None:
    """Copy annotation files to the same places. CIRR's split files then name the copied images."""
    moved = {
        f"split.{key}.json": {
            name: f"./{places[name, path].as_posix()}"
            for name, path in part.paths.items()
            if (name, path) in places
        }
        for key, part in parts.items()
    }
    for file in files:
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
        if file.name in moved:
            content = parse_json(file.read_text(encoding="utf-8-sig"))
            if isinstance(content, dict) and content != (content := content | moved[file.name]):
                place.write_text(json.dumps(content), encoding="utf-8")


def copy_images(
    target: Path, files: Mapping[Path, Path], transform: Transform, *, num_workers: int
) -> Iterator[Copy]:
    """Write the square of every image file to its place below `target`, as a PNG.

    A file that cannot be read is left out.
    """
    jobs = [(file, target / place, transform) for file, place in files.items()]
    for folder in {place.parent for _, place, _ in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    if num_workers == 0:
        yield from map(_copy, jobs)
        return
    with workers(num_workers, get_context("spawn")) as pool:
        yield from pool.map(_copy, jobs, chunksize=16)


def check_copy(dataset: str, target: Path, parts: Mapping[str, Split], places: Places) -> None:
    """UserError unless the copied dataset reads as the first one and its images are found."""
    copied = read_parts(dataset, target, annotation_files(target))
    for key, part in parts.items():
        same = copied[key].triplets == part.triplets and copied[key].gallery == part.gallery
        for name, path in part.paths.items():
            place = places.get((name, path))
            copy = target / place if place else None
            if not same or (
                copy and copy.is_file() and not _is_same(copied[key].paths.get(name), copy)
            ):
                raise UserError(
                    f"the image {name} of {part.name}, {path}, would not be found in a copy; give "
                    "it a name that no other image has."
                )


def write_note(target: Path, transform: Transform) -> None:
    """Note the transform that the copies are for, so that `check_note` refuses any other."""
    (target / NOTE).write_text(json.dumps({"transform": repr(transform)}) + "\n", encoding="utf-8")


def check_note(folder: Path, transform: Transform) -> None:
    """UserError if a dataset's folder holds copies that were made for another transform."""
    note = folder / NOTE
    if not note.is_file():
        return
    try:
        made_for = str(parse_json(note.read_text(encoding="utf-8"))["transform"])
    except (OSError, ValueError, KeyError, TypeError):
        made_for = ""
    if made_for != repr(transform):
        raise UserError(
            f"the images in {folder} were resized for {_difference(made_for, transform)}; resize "
            "the original ones for it, or name their folder with --data-path."
        )


def _difference(noted: str, transform: Transform) -> str:
    """Which settings differ between a transform and one that was noted by its `repr`."""
    before = dict(_SETTING.findall(noted))
    now = dict(_SETTING.findall(repr(transform)))
    if not before:
        return "a transform that its resized.json does not tell"
    other = [
        f"another {_WORDS.get(name, name)} ({before.get(name, 'none')}, not {value})"
        for name, value in now.items()
        if before.get(name) != value
    ]
    return " and ".join(other) or "another transform"


def _copy(job: tuple[Path, Path, Transform]) -> Copy:
    source, target, transform = job
    try:
        square = transform.square(transform.open(source))
    except UserError as error:
        return Copy(target, str(error))
    square.save(target, compress_level=1)
    return Copy(target, "")


def _is_same(found: Path | None, copy: Path) -> bool:
    return found is not None and found.is_file() and found.samefile(copy)


def _copies_of(dataset: str) -> Copies:
    found = benchmark(dataset).copies
    if found is None:
        known = " and ".join(name for name, each in BENCHMARKS.items() if each.copies)
        raise UserError(
            f"how copies of {dataset} are laid out is not known; resize {known}, or set `copies` "
            "in its Benchmark."
        )
    return found
