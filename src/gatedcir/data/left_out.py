"""Splits without the images that have no file or cannot be read, or one error that names them."""

import csv
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gatedcir.data.image_files import Listings
from gatedcir.data.triplets import Split
from gatedcir.errors import UserError

NAMES_SHOWN = 10
LIST = "unreadable_images.csv"
MISSING = "missing"


def check_files(
    splits: list[Split],
    *,
    skip_missing: bool,
    find_unreadable: Callable[[list[Path]], Mapping[Path, str]] | None = None,
    skip_unreadable: bool = False,
    list_folder: Path | None = None,
    listings: Listings | None = None,
) -> list[Split]:
    """Make sure that every image of the splits has its file.

    `skip_missing` removes the missing images from the gallery, the paths and the groups.
    `skip_unreadable` removes each image for which `find_unreadable` gives a reason. Triplets that
    need one of these images are dropped, and the protocol line gives the counts. Without the two,
    the error for missing images also tells what `find_unreadable` finds. A list of all the images
    is written to `list_folder`.

    Raises:
        UserError: files are missing but must not be left out (one error for all of them), or a
            split has no triplets left.
    """
    listings = listings or Listings()
    files = sorted({path for split in splits for path in split.paths.values()})
    left_out: Mapping[Path, str]
    if find_unreadable is not None and skip_unreadable:
        left_out = find_unreadable(files)
    else:
        gone = [path for path in files if path.name not in listings.names(path.parent)]
        left_out = dict.fromkeys(gone, MISSING)
        if left_out and not skip_missing:
            there = [path for path in files if path not in left_out]
            broken = find_unreadable(there) if find_unreadable is not None and there else {}
            raise UserError(_missing_message(splits, left_out, broken, list_folder))
    return [_without(split, left_out) for split in splits]


def write_list(reasons: Mapping[Path, str], folder: Path | None = None) -> Path:
    """Write files and reasons to a table, and return its path.

    It goes to `folder`. If none is given, or if that is not writable, it goes to the folder for
    temporary files.
    """
    rows = [("file", "reason"), *sorted((str(path), reason) for path, reason in reasons.items())]
    if folder is not None:
        with suppress(PermissionError):
            folder.mkdir(parents=True, exist_ok=True)
            return _write_rows(folder / LIST, rows)
    handle, name = tempfile.mkstemp(f"_{LIST}")
    os.close(handle)
    return _write_rows(Path(name), rows)


def _write_rows(file: Path, rows: Iterable[tuple[str, str]]) -> Path:
    # A name with invalid characters is written as Python shows it.
    with file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as opened:
        csv.writer(opened).writerows(rows)
    return file


def count_reasons(reasons: Iterable[str]) -> str:
    """The count of each reason.

    >>> count_reasons(["empty", "damaged", "empty"])
    '2 empty, 1 damaged'
    """
    counted = sorted(Counter(reasons).items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in counted)


def _missing_message(
    splits: list[Split],
    missing: Mapping[Path, str],
    broken: Mapping[Path, str],
    list_folder: Path | None,
) -> str:
    lacking = [split for split in splits if not missing.keys().isdisjoint(split.paths.values())]
    paths = {name: path for split in lacking for name, path in split.paths.items()}
    names = [name for name, path in paths.items() if path in missing]
    shown = ", ".join(names[:NAMES_SHOWN])
    if len(names) > NAMES_SHOWN:
        shown += f", ...; {write_list({**missing, **broken}, list_folder)} lists all"
    folder = os.path.commonpath([paths[name].parent for name in names])
    searched = f"; {lacking[0].searched}" if lacking[0].searched else ""
    also = f", and {len(broken)} cannot be read: {shown_with_reasons(broken)}" if broken else ""
    return (
        f"{' + '.join(split.name for split in lacking)}: {len(names)} of {len(paths)} images are "
        f"missing in {folder} ({shown}){also}{searched}; add them, or go on without them with "
        "--skip-unreadable."
    )


def shown_with_reasons(reasons: Mapping[Path, str]) -> str:
    """The first files, each with its reason."""
    first = [f"{path} ({reason})" for path, reason in list(reasons.items())[:NAMES_SHOWN]]
    return ", ".join(first) + ", ..." * (len(reasons) > NAMES_SHOWN)


def _without(split: Split, left_out: Mapping[Path, str]) -> Split:
    """The split without some images. UserError if no triplet is left."""
    reasons = {name: left_out[path] for name, path in split.paths.items() if path in left_out}
    triplets = tuple(
        replace(
            triplet,
            targets=tuple(name for name in triplet.targets if name not in reasons),
            group=tuple(name for name in triplet.group if name not in reasons),
        )
        for triplet in split.triplets
        if triplet.reference not in reasons
        and (not triplet.targets or not reasons.keys() >= set(triplet.targets))
    )
    only_missing = set(reasons.values()) == {MISSING}
    images = f"{len(reasons)} {MISSING if only_missing else 'unreadable'} images"
    if not only_missing:
        images += f" ({count_reasons(reasons.values())})"
    if not triplets:
        raise UserError(
            f"{split.name} has no triplets"
            + (f" left without its {images}" if reasons else "")
            + ": check its annotation and image files."
        )
    if not reasons:
        return split
    # Fewer distractors raise recall, so the line printed next to the numbers must say it.
    skipped = len(split.triplets) - len(triplets)
    return replace(
        split,
        triplets=triplets,
        gallery=tuple(name for name in split.gallery if name not in reasons),
        paths={name: path for name, path in split.paths.items() if name not in reasons},
        protocol=f"{split.protocol}, {images} and {skipped} triplets left out",
        skipped=skipped,
    )
