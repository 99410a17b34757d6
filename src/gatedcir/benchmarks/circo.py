"""CIRCO: several right images a query, searched among all unlabeled images of COCO. No training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gatedcir.benchmarks.answers import Given, Rules, plain
from gatedcir.benchmarks.base import MAP_CUTOFFS, Answers, Benchmark, Choice, precisions
from gatedcir.data.annotations import CORRECT, field, read_json
from gatedcir.data.image_files import OTHER_ENDINGS, Listings, only_file
from gatedcir.data.triplets import Split, Triplet
from gatedcir.errors import UserError
from gatedcir.files import write_all

SPLITS = ("train", "val", "test")
ANNOTATIONS = ("annotations", ".")
IMAGES = ("COCO2017_unlabeled/unlabeled2017", "unlabeled2017", "images", "")
IMAGE_LISTS = (
    "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json",
    "annotations/image_info_unlabeled2017.json",
    "image_info_unlabeled2017.json",
)
LAYOUT = (
    f"ROOT/annotations/{{val,test}}.json, ROOT/{IMAGE_LISTS[0]}, ROOT/{IMAGES[0]}/000000123456.jpg"
)
NAMES = 50  # that the server needs of each query
ASPECTS_AT = 10


def parse_circo(
    root: Path, split: str, *, images: bool = True, listings: Listings | None = None
) -> Split:
    """The split val or test below `root`. Image files need not exist.

    The first target is the labelled one, and the others are right too. The test split publishes
    none. The gallery is the list of COCO's 123,403 unlabeled images, in its order. Without `images`
    it may be missing, and is then empty. The reference stays in the gallery, as the official
    evaluation has it.

    Raises:
        UserError: another split, a missing or broken annotation file, an image that the list of
            images lacks, or one that has two files.

    Source: Baldrati et al., Zero-Shot Composed Image Retrieval with Textual Inversion, ICCV 2023.
    """
    if split not in SPLITS[1:]:
        raise UserError(
            f"CIRCO has no split '{split}', only {' and '.join(SPLITS[1:])}; train on another data "
            "set, and evaluate it here."
        )
    file = first_there(root, [f"{folder}/{split}.json" for folder in ANNOTATIONS])
    entries = read_json(file, list, layout=LAYOUT)
    triplets = tuple(
        _triplet(entry, split=split, where=f"entry {number} of {file}")
        for number, entry in enumerate(entries)
    )
    if len({triplet.query_id for triplet in triplets}) < len(triplets):
        raise UserError(f"The file {file} repeats an id; {CORRECT}.")
    paths: dict[str, Path] = {}
    if images or first_there(root, IMAGE_LISTS).is_file():
        paths = listed_files(root, listings or Listings(), search=images)
    searched = f"gallery of {len(paths)} images, reference kept, " if paths else ""
    return Split(
        name=f"CIRCO {split}",
        triplets=triplets,
        gallery=tuple(paths),
        paths=paths,
        protocol=f"{searched}{len(triplets)} queries",
        reference_removed=False,
        searched=f"looked for them in {', '.join(IMAGES[:-1])} and below, {OTHER_ENDINGS}",
    )


def _triplet(entry: object, *, split: str, where: str) -> Triplet:
    targets: list[str] = []
    if split != "test":
        labelled = field(entry, "target_img_id", int, where=where)
        others = field(entry, "gt_img_ids", list, where=where)
        targets = list(dict.fromkeys(map(str, (labelled, *others))))
        if labelled not in others:
            raise UserError(f"The {where} lacks its target_img_id in gt_img_ids; {CORRECT}.")
    aspects: list[object] = []
    if isinstance(entry, dict) and "semantic_aspects" in entry:
        aspects = field(entry, "semantic_aspects", list, where=where)
    return Triplet(
        query_id=str(field(entry, "id", int, where=where)),
        reference=str(field(entry, "reference_img_id", int, where=where)),
        targets=tuple(targets),
        captions=(field(entry, "relative_caption", str, where=where),),
        aspects=tuple(map(str, aspects)),
    )


def first_there(root: Path, places: Sequence[str]) -> Path:
    """The first place that is there, or else the usual one."""
    files = [root / place for place in places]
    return next((file for file in files if file.is_file()), files[0])


def listed_files(root: Path, listings: Listings, *, search: bool) -> dict[str, Path]:
    """The images of the list by their ids, and the file of each.

    A file may have another ending, or lie in a folder below. A missing one gets its usual place.
    """
    file = first_there(root, IMAGE_LISTS)
    where = f"list of images in {file}"
    entries = field(read_json(file, dict, layout=LAYOUT), "images", list, where=where)
    names = {
        str(field(entry, "id", int, where=where)): field(entry, "file_name", str, where=where)
        for entry in entries
    }
    folders = [root / folder for folder in IMAGES]
    if not search:
        return {image: folders[0] / name for image, name in names.items()}

    def find(name: str) -> Path:
        for folder in folders:
            if name in listings.names(folder):
                return folder / name
        stem = Path(name).stem
        return (
            only_file(stem, map(listings.images, folders))
            or only_file(stem, map(listings.images_below, folders[:-1]))
            or folders[0] / name
        )

    return {image: find(name) for image, name in names.items()}


def circo_metrics(answers: Answers) -> dict[str, float]:
    """CIRCO's mAP over all targets, recall of the labelled target, and mAP@10 by aspect.

    All are in percent. `map_at5` is the headline.
    """
    metrics = {f"map_at{k}": 100 * float(precisions(answers, k).mean()) for k in MAP_CUTOFFS}
    ranks = answers.target_ranks
    metrics |= {f"recall_at{k}": 100 * float(np.mean(ranks < k)) for k in MAP_CUTOFFS}
    each = precisions(answers, ASPECTS_AT)
    triplets = answers.split.triplets
    for aspect in dict.fromkeys(aspect for t in triplets for aspect in t.aspects):
        chosen = np.array([aspect in triplet.aspects for triplet in triplets])
        metrics[f"map_at{ASPECTS_AT}_{aspect}"] = 100 * float(each[chosen].mean())
    return metrics


def write_predictions(folder: Path, split: str, lists: Mapping[str, Sequence[str]]) -> list[Path]:
    """Write the server's file, ids of queries -> ids of 50 images, and return its path.

    Raises:
        UserError: a query has fewer images.
    """
    for query, names in lists.items():
        if len(set(names)) < NAMES:
            raise UserError(
                f"query {query} has {len(set(names))} images where the server wants {NAMES}; the "
                "gallery is too small."
            )
    content = {query: [int(name) for name in names[:NAMES]] for query, names in lists.items()}
    return write_all(folder, {f"submission_{split}.json": json.dumps(content).encode()})


def _read(root: Path, split: str, *, choice: Choice, listings: Listings) -> list[Split]:
    return [parse_circo(root, split, images=choice.images, listings=listings)]


def _metrics(answers: Sequence[Answers]) -> dict[str, float]:
    [found] = answers
    return circo_metrics(found)


def _submit(folder: Path, split: str, answers: Sequence[Answers]) -> list[Path]:
    [found] = answers
    triplets = found.split.triplets
    lists = {triplet.query_id: found.names(number) for number, triplet in enumerate(triplets)}
    return write_predictions(folder, split, lists)


def _read_answers(content: Any, splits: Sequence[Split]) -> Given:
    """The server's file. An id may be a number, or a text of its digits as in a file's name."""
    lists = plain(content, splits).lists
    for query, names in lists.items():
        for name in names:
            if not name.isdecimal():
                raise UserError(f"names {name!r} for query {query}, which is no number of an image")
    return Given({query: [str(int(name)) for name in names] for query, names in lists.items()})


CIRCO = Benchmark(
    name="CIRCO",
    read=_read,
    metrics=_metrics,
    headline="map_at5",
    headings={
        **{f"map_at{k}": f"mAP@{k}" for k in MAP_CUTOFFS},
        **{f"recall_at{k}": f"R@{k}" for k in MAP_CUTOFFS},
    },
    splits=SPLITS,
    folder=Path("circo_dataset"),
    origin="https://github.com/miccunifi/CIRCO",
    sign="COCO2017_unlabeled",
    submission=_submit,
    read_answers=_read_answers,
    rules=Rules(NAMES, exactly=True),
)
