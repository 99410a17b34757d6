"""Further captions of the training images, in the form in which they are published.

Each file is a JSON list. An entry has `reference`, `target_hard` and `caption` as in CIRR, or
`candidate`, `target` and `captions` as in FashionIQ. SPN4CIR (ACM MM 2024) publishes such files.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gatedcir.data.annotations import CORRECT, field, read_json
from gatedcir.data.triplets import Triplet
from gatedcir.errors import UserError

_FORMS = "with reference, target_hard and caption, or with candidate, target and captions"


class Extra(NamedTuple):
    """Further triplets."""

    triplets: list[Triplet]
    shares: list[float]
    """Each triplet's share of its entry: 1, or 1/k of an entry with k captions."""
    entries: int
    left_out: int
    """Entries that name an image which the training split does not have."""


def read_extra(files: Sequence[Path], images: Collection[str]) -> Extra:
    """The triplets in some files. An entry with several captions becomes as many triplets.

    Args:
        files: in the published form.
        images: names that an entry may have.

    Raises:
        UserError: a file is missing or damaged, or none of its images is known.
    """
    found: list[Triplet] = []
    shares: list[float] = []
    entries, left_out = 0, 0
    known = set(images)
    for file in files:
        content = _entries(file)
        before = len(found)
        for number, entry in enumerate(content):
            where = f"entry {number} of {file}"
            if not isinstance(entry, dict):
                raise UserError(f"The {where} must be an object, {_FORMS}; {CORRECT}.")
            is_cirr = "reference" in entry
            keys = ("reference", "target_hard") if is_cirr else ("candidate", "target")
            reference, target = (field(entry, key, str, where=where) for key in keys)
            captions = _captions(entry, where=where)
            if reference not in known or target not in known:
                left_out += 1
                continue
            entries += 1
            for caption in captions:
                name, pool = f"extra-{len(found)}", f"extra-{reference}"
                found.append(Triplet(name, reference, (target,), (caption,), pool=pool))
                shares.append(1 / len(captions))
        if len(found) == before:
            raise UserError(
                f"{file} has no triplet of images of the training split; name a file for this data "
                "set with --extra-captions."
            )
    return Extra(found, shares, entries, left_out)


def images_of(files: Sequence[Path]) -> set[str]:
    """The names of all images in some files, whether a data set has them or not.

    Raises:
        UserError: a file is missing or no JSON list.
    """
    keys = ("reference", "target_hard", "candidate", "target")
    entries = [entry for file in files for entry in _entries(file) if isinstance(entry, dict)]
    values = (entry.get(key) for entry in entries for key in keys)
    return {value for value in values if isinstance(value, str)}


def _entries(file: Path) -> list[Any]:
    if not file.is_file():
        raise UserError(f"--extra-captions {file} is no file; name one that exists.")
    return read_json(file, list, layout="a JSON list")


def _captions(entry: dict, *, where: str) -> list[str]:
    given = entry.get("caption", entry.get("captions"))
    captions = [given] if isinstance(given, str) else given
    if (
        not isinstance(captions, list)
        or not captions
        or not all(isinstance(caption, str) and caption.strip() for caption in captions)
    ):
        raise UserError(f"The {where} needs a caption, a text or a list of texts; {CORRECT}.")
    return captions
