"""FashionIQ: two captions a query, three categories, two galleries in use for validation."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from gatedcir.benchmarks.answers import Given, Rules, plain
from gatedcir.benchmarks.base import CUTOFFS, Answers, Benchmark, Choice, Copies
from gatedcir.benchmarks.places import places_by_name
from gatedcir.benchmarks.ranks import Indices, recall_at
from gatedcir.data.annotations import CORRECT, field, read_json
from gatedcir.data.image_files import OTHER_ENDINGS, Listings, only_file
from gatedcir.data.triplets import Split, Triplet
from gatedcir.errors import UserError
from gatedcir.files import write_all

CATEGORIES = ("dress", "shirt", "toptee")
SPLITS = ("train", "val", "test")
PROTOCOLS = ("original", "val-split")
LAYOUT = (
    "ROOT/captions/cap.CATEGORY.SPLIT.json, ROOT/image_splits/split.CATEGORY.SPLIT.json, "
    "ROOT/images/NAME.{jpg,png}"
)


def parse_fashioniq(
    root: Path,
    category: str,
    split: str,
    *,
    protocol: str = "original",
    gallery: str = "split",
    listings: Listings | None = None,
) -> Split:
    """One category of the split train, val or test below `root`. Images need not exist.

    The gallery is all of the split file ("original": 3817/6346/5373 images on val) or only its
    references and targets ("val-split": 2628/3089/2902). With `gallery` "all" the images of the
    other two splits follow. The test split publishes no targets. `listings` may be shared with
    other readers.

    Raises:
        UserError: an unknown name, a missing or broken annotation file, a validation target that is
            not in the gallery, or an image that has two files.

    Source: Wu et al., Fashion IQ, CVPR 2021; "val-split" is the gallery of VAL
    (Chen et al., CVPR 2020).
    """
    _choose("category", category, CATEGORIES)
    _choose("split", split, SPLITS)
    _choose("protocol", protocol, PROTOCOLS)
    if (protocol, gallery) == ("val-split", "all"):
        raise UserError(
            "--gallery all and --fashioniq-protocol val-split ask for different galleries; leave "
            "one of them out."
        )
    captions_file = root / "captions" / f"cap.{category}.{split}.json"
    _check_category(captions_file, category, split)
    entries = read_json(captions_file, list, layout=LAYOUT)
    listed = _image_split(root, category, split)
    triplets = tuple(
        _triplet(entry, category, split, number, where=f"entry {number} of {captions_file}")
        for number, entry in enumerate(entries)
    )
    # A dict keeps the order of the file and drops repetitions.
    used = dict.fromkeys(n for t in triplets for n in (t.reference, t.target) if n is not None)
    names = tuple(listed if protocol == "original" else filter(used.__contains__, listed))
    _check_targets(triplets, names, split=split, category=category)
    kind = {"original": "original split", "val-split": "VAL split"}[protocol]
    if gallery == "all":
        others = (name for other in SPLITS for name in _image_split(root, category, other))
        names, kind = tuple(dict.fromkeys((*names, *others))), "all splits"
    images = root / "images"
    return Split(
        name=f"FashionIQ {category} {split}",
        triplets=triplets,
        gallery=names,
        paths=image_files(images, category, (*names, *used), listings or Listings()),
        protocol=f"gallery of {len(names)} images ({kind}), reference kept, "
        f"{len(triplets)} queries",
        reference_removed=False,
        category=category,
        searched=f"looked for NAME {OTHER_ENDINGS} in {images} and in all folders below it",
    )


def _check_category(file: Path, category: str, split: str) -> None:
    """UserError if the annotations of a category are missing but those of others exist."""
    there = [c for c in CATEGORIES if file.with_name(f"cap.{c}.{split}.json").is_file()]
    if there and category not in there:
        raise UserError(
            f"The annotation file {file} does not exist, but those of other categories do; add "
            f"it, or go on without it with --fashioniq-categories {' '.join(there)}."
        )


def _image_split(root: Path, category: str, split: str) -> list[str]:
    """The names of the images of a split."""
    file = root / "image_splits" / f"split.{category}.{split}.json"
    listed = read_json(file, list, layout=LAYOUT)
    if not all(isinstance(name, str) for name in listed) or len(set(listed)) < len(listed):
        raise UserError(f"The file {file} must list image names, each of them once; {CORRECT}.")
    return listed


def _choose(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"FashionIQ has no {what} '{value}'; choose one of {', '.join(choices)}.")


def _triplet(entry: object, category: str, split: str, number: int, *, where: str) -> Triplet:
    captions = field(entry, "captions", list, where=where)
    if len(captions) != 2 or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"The {where} must have two captions, not {captions!r}; {CORRECT}.")
    return Triplet(
        query_id=f"{category}-{number}",
        reference=field(entry, "candidate", str, where=where),
        targets=() if split == "test" else (field(entry, "target", str, where=where),),
        captions=tuple(captions),
        pool=category,
    )


def _check_targets(
    triplets: tuple[Triplet, ...], gallery: tuple[str, ...], *, split: str, category: str
) -> None:
    # Training needs no ranking, and a reference outside of the gallery is still a valid query.
    known = set(gallery)
    for triplet in triplets if split == "val" else ():
        if triplet.target not in known:
            raise UserError(
                f"The target '{triplet.target}' of {triplet.query_id} is not in "
                f"split.{category}.{split}.json; use caption and split files of the same release."
            )


def image_files(
    folder: Path, category: str, names: tuple[str, ...], listings: Listings
) -> dict[str, Path]:
    """The file of each image: in the folder itself, in that of the category, or in another one.

    An image may lie in the folders of two categories, because shirts and tops share images. A
    missing image gets the ending .jpg.
    """

    def find(name: str) -> Path:
        return (
            only_file(name, [listings.images(folder)])
            or only_file(name, [listings.images(folder / category)])
            or only_file(name, [listings.images_below(folder)])
            or folder / f"{name}.jpg"
        )

    return {name: find(name) for name in names}


def fashioniq_metrics(ranks_by_category: Mapping[str, Indices]) -> dict[str, float]:
    """FashionIQ's recalls per category, and their unweighted means over the categories.

    `average_recall` is the headline: the mean of the averages at 10 and at 50 alone.

    Args:
        ranks_by_category: category -> [M] ranks, each in its own gallery.

    Raises:
        ValueError: there is no category, or one has no query.

    >>> import numpy as np
    >>> metrics = fashioniq_metrics({"dress": np.array([3, 20]), "shirt": np.array([70])})
    >>> metrics["dress_recall_at10"], metrics["average_recall_at50"], metrics["average_recall"]
    (50.0, 50.0, 37.5)
    """
    if not ranks_by_category:
        raise ValueError("FashionIQ metrics need at least one category")
    metrics: dict[str, float] = {}
    for category, ranks in ranks_by_category.items():
        for k in (1, 5, 10, 50):
            metrics[f"{category}_recall_at{k}"] = recall_at(ranks, k)
    averages = {
        f"average_recall_at{k}": statistics.mean(
            metrics[f"{category}_recall_at{k}"] for category in ranks_by_category
        )
        for k in (1, 5, 10, 50)
    }
    both = [averages[f"average_recall_at{k}"] for k in (10, 50)]
    return metrics | averages | {"average_recall": statistics.mean(both)}


def write_rankings(
    folder: Path, split: str, rankings: Mapping[str, Sequence[Mapping[str, object]]]
) -> list[Path]:
    """Write FashionIQ's answers, `CATEGORY.SPLIT.pred.json` for each category. Return their paths.

    Args:
        folder: created if it is missing.
        split: its name.
        rankings: category -> the queries in the order of the captions file, each with its
            candidate, its captions and its ranking (names, best first).

    Source: start_kit/eval.py of github.com/XiaoxiaoGuo/fashion-iq, which ranks the whole gallery.
    """
    return write_all(
        folder,
        {
            f"{category}.{split}.pred.json": json.dumps(entries).encode()
            for category, entries in rankings.items()
        },
    )


def _read(root: Path, split: str, *, choice: Choice, listings: Listings) -> list[Split]:
    """The requested categories, in their own order. Their protocol says if some are left out."""
    asked = CATEGORIES if choice.categories is None else choice.categories
    chosen = [category for category in CATEGORIES if category in asked]
    if not chosen:
        raise UserError(f"--fashioniq-categories names none of {', '.join(CATEGORIES)}; name one.")
    note = "" if len(chosen) == len(CATEGORIES) else f", {' and '.join(chosen)} only"
    read = partial(parse_fashioniq, root, split=split, protocol=choice.protocol)
    parts = [read(category, gallery=choice.gallery, listings=listings) for category in chosen]
    return [replace(part, note=note) for part in parts]


def _metrics(answers: Sequence[Answers]) -> dict[str, float]:
    return fashioniq_metrics({str(each.split.category): each.target_ranks for each in answers})


def _submit(folder: Path, split: str, answers: Sequence[Answers]) -> list[Path]:
    rankings = {
        str(each.split.category): [
            {
                "candidate": triplet.reference,
                "captions": triplet.captions,
                "ranking": each.names(number),
            }
            for number, triplet in enumerate(each.split.triplets)
        ]
        for each in answers
    }
    return write_rankings(folder, split, rankings)


def _read_answers(content: Any, splits: Sequence[Split]) -> Given:
    """A category's `CATEGORY.SPLIT.pred.json`, a list in the order of its captions, or plain."""
    if not isinstance(content, list):
        return plain(content, splits)
    asked = [entry.get("candidate") if isinstance(entry, dict) else None for entry in content]
    for split in splits:
        if asked == [triplet.reference for triplet in split.triplets]:
            ids = [triplet.query_id for triplet in split.triplets]
            rankings = (entry.get("ranking") for entry in content)
            return plain(dict(zip(ids, rankings, strict=True)), splits)
    raise UserError(
        f"has {len(asked)} entries whose candidates are not those of any of "
        f"{', '.join(split.name for split in splits)}, in their order"
    )


FASHIONIQ = Benchmark(
    name="FashionIQ",
    read=_read,
    metrics=_metrics,
    headline="average_recall",
    headings={
        **{
            f"{c}_recall_at{k}": f"{c} R@{k}" for c, k in product((*CATEGORIES, "average"), CUTOFFS)
        },
        "average_recall": "average recall",
    },
    splits=SPLITS,
    folder=Path("fashionIQ_dataset"),
    origin="https://github.com/XiaoxiaoGuo/fashion-iq",
    drawn=True,
    sign="image_splits",
    submission=_submit,
    read_answers=_read_answers,
    rules=Rules(max(CUTOFFS)),
    copies=Copies(
        parts=lambda root: {
            f"{category}.{split}": partial(parse_fashioniq, root, category, split)
            for category, split in product(CATEGORIES, SPLITS)
        },
        places=places_by_name,
    ),
)
