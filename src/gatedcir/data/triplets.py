"""What every dataset becomes: triplets, a gallery in ranking order, and the file of each image."""

import json
import os
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from gatedcir.errors import UserError

NAMES_SHOWN = 10
Value = TypeVar("Value")


@dataclass(frozen=True)
class Triplet:
    """One query and its answer.

    `target` is None where the split publishes none; `group` holds CIRR's image set as published,
    the reference included, and is empty elsewhere. `pool` names what triplets with much the same
    images share: the number of CIRR's image set, FashionIQ's category.
    """

    query_id: str
    reference: str
    target: str | None
    captions: tuple[str, ...]
    group: tuple[str, ...] = ()
    pool: str = ""


@dataclass(frozen=True)
class Split:
    """The triplets of one split and the gallery, in the order in which ties are broken."""

    name: str
    triplets: tuple[Triplet, ...]
    gallery: tuple[str, ...]
    paths: dict[str, Path]
    protocol: str
    reference_removed: bool
    category: str | None = None


def evaluation_text(captions: tuple[str, ...]) -> str:
    """The text of a query at evaluation: one caption as it is, two joined by "and".

    A blank one of two is left out. Raises ValueError unless there are one or two captions.
    Source: FashionIQ evaluation of CLIP4Cir and SPRC; `capitalize` lowers the rest, as there.

    >>> evaluation_text(("Is Red.", " has a V-neck, "))
    'Is red and has a V-neck'
    >>> evaluation_text(("", "is grey"))
    'Is grey'
    """
    if len(captions) == 1:
        return captions[0]
    return _join(_usable(captions))


def training_text(captions: tuple[str, ...], rng: random.Random) -> str:
    """The text of a query in training: one caption as it is; two give one of four texts, each
    with probability 1/4: first and second, second and first, the first alone, the second alone.

    A blank one of two is left out. Raises ValueError unless there are one or two captions.
    Source: FashionIQ training of CLIP4Cir and SPRC.

    >>> training_text(("is red", "."), random.Random(0))
    'Is red'
    """
    if len(captions) == 1:
        return captions[0]
    parts = _usable(captions)
    if len(parts) == 2:
        first, second = parts
        parts = rng.choice(([first, second], [second, first], [first], [second]))
    return _join(parts)


def only_used(split: Split) -> Split:
    """A training split without the images that no triplet uses: nothing is ranked in training."""
    used = {name for t in split.triplets for name in (t.reference, t.target)}
    gallery = tuple(name for name in split.gallery if name in used)
    paths = {name: path for name, path in split.paths.items() if name in used}
    protocol = f"{len(split.triplets)} triplets of {len(paths)} images"
    triplets = tuple(replace(triplet, group=()) for triplet in split.triplets)
    return replace(split, triplets=triplets, gallery=gallery, paths=paths, protocol=protocol)


def too_few(split: str, images: int) -> UserError:
    """The error of a gallery that leaves no choice."""
    return UserError(
        f"the gallery of {split} has {images} image(s), which leaves nothing to rank; check the "
        "split's file."
    )


def check_files(splits: list[Split], *, skip_missing: bool) -> list[Split]:
    """Make sure that every image of the splits has its file.

    With `skip_missing` the missing images leave the gallery, the paths and the groups, triplets
    that need one are dropped, and the protocol line gives the counts. Raises one UserError for
    all missing files otherwise, and one on a split without triplets.
    """
    missing: dict[str, Path] = {}
    for split in splits:
        listings = {folder: names_in(folder) for folder in {p.parent for p in split.paths.values()}}
        missing |= {n: p for n, p in split.paths.items() if p.name not in listings[p.parent]}
    if missing and not skip_missing:
        raise UserError(_missing_message(splits, missing))
    return [_checked(split, missing) for split in splits]


def _checked(split: Split, missing: dict[str, Path]) -> Split:
    """The split without the missing images; UserError if no triplet is left."""
    count = len(split.paths.keys() & missing.keys())
    found = _without(split, missing) if count else split
    if not found.triplets:
        raise UserError(
            f"{split.name} has no triplets"
            + (f" left without its {count} missing images" if count else "")
            + ": check its annotation and image files."
        )
    return found


def names_in(folder: Path) -> frozenset[str]:
    """The names of the entries of a folder in one scan; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def read_json(path: Path, kind: type[Value], *, layout: str) -> Value:
    """The `kind` (list or dict) in an annotation file.

    `layout` is the expected layout of the dataset, shown where the file is missing. Raises
    UserError on a missing file, on invalid JSON and on another type.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"The annotation file {path} does not exist; the expected layout is {layout}, "
            "in the folder that --data-path names."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"The annotation file {path} cannot be read as JSON ({error}); download it again."
        ) from error
    if not isinstance(content, kind):
        raise UserError(f"The annotation file {path} must hold a {kind.__name__} at its top level.")
    return content


def field(entry: object, key: str, kind: type[Value], *, where: str) -> Value:
    """`entry[key]` of type `kind`; UserError names `where`, the place of the entry, if it is not.

    >>> field({"caption": "is red"}, "caption", str, where="entry 0 of cap.json")
    'is red'
    """
    if not isinstance(entry, dict) or key not in entry:
        raise UserError(f"The {where} lacks the key '{key}'; download the file again.")
    value = entry[key]
    if not isinstance(value, kind):
        raise UserError(
            f"The key '{key}' of the {where} must hold a {kind.__name__}, not {value!r}."
        )
    return value


def _usable(captions: tuple[str, ...]) -> list[str]:
    if len(captions) != 2:
        raise ValueError(f"one or two captions expected, got {len(captions)}")
    stripped = [caption.strip(".?, ") for caption in captions]
    return [caption for caption in stripped if caption.strip()]


def _join(parts: list[str]) -> str:
    return " and ".join([parts[0].capitalize(), *parts[1:]]) if parts else ""


def _missing_message(splits: list[Split], missing: dict[str, Path]) -> str:
    shown = ", ".join(list(missing)[:NAMES_SHOWN]) + (", ..." if len(missing) > NAMES_SHOWN else "")
    folder = os.path.commonpath([path.parent for path in missing.values()])
    lacking = [split for split in splits if split.paths.keys() & missing.keys()]
    total = len({name for split in lacking for name in split.paths})
    return (
        f"{' + '.join(split.name for split in lacking)}: {len(missing)} of {total} images are "
        f"missing in {folder} ({shown}); add them, or go on without them with --skip-missing."
    )


def _without(split: Split, missing: dict[str, Path]) -> Split:
    gallery = tuple(name for name in split.gallery if name not in missing)
    triplets = tuple(
        replace(triplet, group=tuple(name for name in triplet.group if name not in missing))
        for triplet in split.triplets
        if triplet.reference not in missing and triplet.target not in missing
    )
    skipped = len(split.triplets) - len(triplets)
    # Fewer distractors raise recall, so the line printed beside the numbers has to say it.
    left_out = f"{len(split.gallery) - len(gallery)} missing images and {skipped} triplets left out"
    return replace(
        split,
        triplets=triplets,
        gallery=gallery,
        paths={name: path for name, path in split.paths.items() if name not in missing},
        protocol=f"{split.protocol}, {left_out}",
    )
