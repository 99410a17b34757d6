"""Copies of a dataset's images that are already what the transform makes of them.

A copy is the padded, resized and cropped square, stored without loss: the transform changes nothing
on it, so that the model's input is the same bit for bit and only the work is saved.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from pathlib import Path

from gatedcir.data.transforms import Transform
from gatedcir.errors import UserError

NOTE = "resized.json"  # in the copied dataset's folder


def copy_annotations(source: Path, target: Path) -> int:
    """Copy all JSON files of a dataset's folder to the same places; how many there were."""
    files = [path for path in source.rglob("*.json") if path.name != NOTE]
    for file in files:
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    return len(files)


def copy_images(
    source: Path, target: Path, files: Iterable[Path], transform: Transform, *, num_workers: int
) -> Iterator[Path]:
    """Write the square of every image file of `source` to the same place, as a PNG; the copies.

    Raises UserError with the file's name on a broken image.
    """
    jobs = [(f, (target / f.relative_to(source)).with_suffix(".png"), transform) for f in files]
    for folder in {place.parent for _, place, _ in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    if num_workers == 0:
        yield from map(_copy, jobs)
        return
    with get_context("spawn").Pool(num_workers) as pool:
        yield from pool.imap_unordered(_copy, jobs, chunksize=16)


def write_note(target: Path, transform: Transform) -> None:
    """Say which transform the copies are for, so that `check_note` refuses any other."""
    (target / NOTE).write_text(json.dumps({"transform": repr(transform)}) + "\n", encoding="utf-8")


def check_note(folder: Path, transform: Transform) -> None:
    """UserError if a dataset's folder holds copies that were made for another transform."""
    note = folder / NOTE
    if not note.is_file():
        return
    made_for = json.loads(note.read_text(encoding="utf-8")).get("transform")
    if made_for != repr(transform):
        raise UserError(
            f"the images in {folder} were resized for {made_for}, not for {transform!r}; resize "
            "them for it, or name the original folder with --data-path."
        )


def _copy(job: tuple[Path, Path, Transform]) -> Path:
    source, target, transform = job
    transform.square(transform.open(source)).save(target, compress_level=1)
    return target
