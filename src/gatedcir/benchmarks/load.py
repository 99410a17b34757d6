"""A dataset's name and folder -> its splits."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch.distributed as dist

from gatedcir import processes
from gatedcir.benchmarks.base import WHOLE, Benchmark, Choice
from gatedcir.benchmarks.layouts import check_layout
from gatedcir.benchmarks.registry import benchmark
from gatedcir.data.image_files import Listings
from gatedcir.data.left_out import check_files, count_reasons, write_list
from gatedcir.data.readable import find_unreadable
from gatedcir.data.triplets import Split, Triplet, only_used, too_few
from gatedcir.errors import UserError
from gatedcir.plugins import errors_of

MOST_WORDS = 100
MOST_LETTERS = 1000  # of a word


def load_splits(
    dataset: str,
    root: Path,
    names: Sequence[str],
    *,
    choice: Choice = WHOLE,
    skip_missing: bool = False,
    skip_unreadable: bool = False,
    num_workers: int = 0,
    folder: Path | None = None,
) -> list[list[Split]]:
    """For each name the separately ranked parts: one for CIRR, one a category for FashionIQ.

    Args:
        dataset: a name of `BENCHMARKS`, or a path like my_file:MyData.
        root: its folder.
        names: of splits; train, val and test, or the data set's own names.
        choice: the part of it to read.
        skip_missing: leave out images without a file.
        skip_unreadable: read all images, and leave out those that are missing or cannot be read.
        num_workers: threads that read them.
        folder: the place for a list of these, and for a note of the files that were read.

    Raises:
        UserError: as the readers do, once for the files of all.
    """
    found = benchmark(dataset)
    check_layout(found, root)
    if choice.gallery not in ("split", "all") and not found.any_gallery:
        raise UserError(
            f"{found.name} has its own galleries, and cannot be searched in {choice.gallery}; "
            "choose split or all, or evaluate triplets of your own."
        )
    listings = Listings()
    parsed = [_parse(found, root, found.split_named(name), choice, listings) for name in names]
    checked = check_files(
        [part for split in parsed for part in split],
        skip_missing=skip_missing,
        find_unreadable=partial(
            _find_unreadable, num_workers=num_workers, folder=folder, tell=skip_unreadable
        ),
        skip_unreadable=skip_unreadable,
        list_folder=folder,
        listings=listings,
    )
    parts = iter(checked)
    splits = [[next(parts) for _ in split] for split in parsed]
    for part in checked:
        check_gallery(part)
        for triplet in part.triplets:
            for caption in triplet.captions:
                check_caption(caption, where=f"query {triplet.query_id} of {part.name}")
    return splits


def read_queries(
    dataset: str, root: Path, name: str, *, choice: Choice = WHOLE, images: bool = False
) -> list[Split]:
    """The separately ranked parts of a split, whose image files need not exist.

    Without `images` a gallery may be empty if only the images' list tells it.

    Raises:
        UserError: as the readers do.
    """
    found = benchmark(dataset)
    check_layout(found, root)
    choice = replace(choice, ranked=True, images=images)
    return _parse(found, root, found.split_named(name), choice, Listings())


def _parse(
    found: Benchmark, root: Path, name: str, choice: Choice, listings: Listings
) -> list[Split]:
    train = name == found.training_split and not choice.ranked
    if train:  # training needs no ranking
        choice = replace(choice, gallery="split")
    with errors_of(found.name, what="the reader of", code=found.read):
        parsed = list(found.read(root, name, choice=choice, listings=listings))
    for part in parsed:
        if not isinstance(part, Split):
            raise UserError(
                f"the reader of {found.name} gives a {type(part).__name__}; let it return a list "
                "of gatedcir.data.triplets.Split."
            )
        if choice.images or part.gallery:
            check_split(part, ranked=not train)
    parsed = [only_used(part, choice.also) for part in parsed] if train else parsed
    return [replace(p, protocol=f"{p.protocol}{p.note}{_without_text(p)}") for p in parsed]


def _without_text(split: Split) -> str:
    """The end of the protocol line if captions are empty. One of CIRR's published test is."""
    count = sum(not any(map(str.strip, triplet.captions)) for triplet in split.triplets)
    return f", {count} queries have no text" if count else ""


def check_split(split: Split, *, ranked: bool) -> None:
    """Refuse a split whose parts do not fit together. UserError names the query.

    Args:
        split: as a reader gives it.
        ranked: whether its gallery must hold the targets and the members of groups.
    """
    known, gallery = split.paths.keys(), set(split.gallery)
    for triplet in split.triplets:
        wrong = [name for name in (triplet.reference, *triplet.targets) if name not in known]
        if wrong:
            raise _lacking(triplet, split, wrong[0], "has no path")
        named = (*triplet.targets, *triplet.group) if ranked else ()
        wrong = [name for name in named if name not in gallery]
        if wrong:
            raise _lacking(triplet, split, wrong[0], "is not in the gallery")


def _find_unreadable(
    files: list[Path], *, num_workers: int, folder: Path | None, tell: bool
) -> dict[Path, str]:
    """The unreadable ones among some files. One process finds them for all.

    With `tell` it also prints how many are left out.
    """
    found: list[dict[Path, str]] = [{}]
    if processes.is_main():
        found = [find_unreadable(files, num_workers=num_workers, folder=folder)]
        if found[0] and tell:
            print(
                f"{len(found[0])} of {len(files)} images are left out "
                f"({count_reasons(found[0].values())}); {write_list(found[0], folder)} lists them"
            )
    if processes.count() > 1:
        dist.broadcast_object_list(found)
    return found[0]


def check_gallery(split: Split) -> None:
    """Raise a UserError for a gallery that leaves no choice without the reference."""
    if len(split.gallery) < 2 + split.reference_removed:
        raise too_few(split.name, len(split.gallery))


def check_caption(caption: str, *, where: str) -> None:
    """Refuse a caption that is no modification sentence. UserError names its place.

    The model reads the first 32 tokens. The longest published caption has 53 words.
    """
    if not caption.isascii() and any("\ud800" <= letter <= "\udfff" for letter in caption):
        raise UserError(
            f"the caption of {where} holds half of a character (a lone surrogate); write it again."
        )
    words = caption.split()
    if len(words) > MOST_WORDS:
        raise UserError(
            f"the caption of {where} has {len(words)} words; shorten it to {MOST_WORDS} at most, "
            "of which the model reads the first 30 or so."
        )
    if longest := max((len(word) for word in words if len(word) > MOST_LETTERS), default=0):
        raise UserError(
            f"the caption of {where} has a word of {longest} letters; write words of "
            f"{MOST_LETTERS} letters at most."
        )


def _lacking(triplet: Triplet, split: Split, name: str, lack: str) -> UserError:
    """The error of a query that needs more than its split holds."""
    return UserError(
        f"query {triplet.query_id} of {split.name} names the image '{name}', which {lack}; correct "
        "the annotations, or what reads them."
    )
