"""CIRR: one caption a query, image sets of six, one gallery a split."""

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gatedcir.benchmarks.answers import Given, Rules, plain
from gatedcir.benchmarks.base import CUTOFFS, GROUP_CUTOFFS, Answers, Benchmark, Choice, Copies
from gatedcir.benchmarks.cirr_files import image_files, searched_folders
from gatedcir.benchmarks.places import places_by_path
from gatedcir.benchmarks.ranks import Indices, recall_at
from gatedcir.data.annotations import CORRECT, field, read_json
from gatedcir.data.image_files import OTHER_ENDINGS, Listings
from gatedcir.data.triplets import Split, Triplet, too_few
from gatedcir.errors import UserError
from gatedcir.files import write_all

SPLITS = ("train", "val", "test1")
LAYOUT = (
    "ROOT/cirr/captions/cap.rc2.SPLIT.json, ROOT/cirr/image_splits/split.rc2.SPLIT.json, "
    "ROOT/{train,dev,test1}/*.png"
)
RECALL_NAMES, SUBSET_NAMES = 50, 3  # the names that the server needs of each query
MOST_BYTES = 5_000_000
FILES = {"recall": "recall_submission.json", "recall_subset": "recall_subset_submission.json"}


def parse_cirr(
    root: Path, split: str, *, gallery: str = "split", listings: Listings | None = None
) -> Split:
    """The split train, val or test1 of the CIRR release rc2 below `root`. Images need not exist.

    The target is `target_hard` alone, and test1 has none. The gallery is that of the split. With
    `gallery` "all" the images of the other two splits follow. If an image set names a member
    twice, it counts once, and the protocol line gives the number of such sets. `listings` may be
    shared with other readers.

    Raises:
        UserError: an unknown split, a missing or broken annotation file, an image that the image
            split does not list, or one that has two files.

    Source: Liu et al., Image Retrieval on Real-life Images, ICCV 2021.
    """
    if split not in SPLITS:
        raise UserError(f"CIRR has no split '{split}'; choose one of {', '.join(SPLITS)}.")
    captions_file = root / "cirr" / "captions" / f"cap.rc2.{split}.json"
    entries = read_json(captions_file, list, layout=LAYOUT)
    relative = _image_split(root, split)
    if len(relative) < 2:  # too few for a reference and a target
        raise too_few(f"CIRR {split}", len(relative))
    triplets = tuple(
        _triplet(entry, relative, split=split, where=f"entry {number} of {captions_file}")
        for number, entry in enumerate(entries)
    )
    if len({triplet.query_id for triplet in triplets}) < len(triplets):
        raise UserError(f"The file {captions_file} repeats a pairid; {CORRECT}.")
    if gallery == "all":
        for other in SPLITS:  # the split's own images stay first, with their own files
            relative |= {n: p for n, p in _image_split(root, other).items() if n not in relative}
    kind = {"split": "", "all": " (all splits)"}[gallery]
    repeats = len({e["img_set"]["id"] for e in entries if _repeats(e["img_set"]["members"])})
    note = f", {repeats} image sets name a member twice, counted once" if repeats else ""
    return Split(
        name=f"CIRR {split}",
        triplets=triplets,
        gallery=tuple(relative),
        paths=image_files(root, relative, listings or Listings()),
        protocol=f"gallery of {len(relative)} images{kind}, reference removed, "
        f"{len(triplets)} queries{note}",
        reference_removed=True,
        searched=f"looked for them below {searched_folders(root)}, under the names in "
        f"split.rc2.{split}.json, and also in other sub-folders and {OTHER_ENDINGS}",
    )


def _triplet(entry: object, images: dict[str, Path], *, split: str, where: str) -> Triplet:
    image_set = field(entry, "img_set", dict, where=where)
    triplet = Triplet(
        query_id=str(field(entry, "pairid", int, where=where)),
        reference=field(entry, "reference", str, where=where),
        targets=() if split == "test1" else (field(entry, "target_hard", str, where=where),),
        captions=(field(entry, "caption", str, where=where),),
        group=tuple(_once(field(image_set, "members", list, where=f"img_set of {where}"))),
        pool=str(field(image_set, "id", int, where=f"img_set of {where}")),
    )
    for name in (triplet.reference, triplet.target, *triplet.group):
        if name is not None and (not isinstance(name, str) or name not in images):
            raise UserError(
                f"The {where} names the image '{name}', which is not in split.rc2.{split}.json; "
                "use caption and split files of the same release."
            )
    if triplet.target is not None and (
        triplet.target == triplet.reference or triplet.target not in triplet.group
    ):
        raise UserError(
            f"The {where} needs a target that is not its reference and stands in "
            f"img_set.members; {CORRECT}."
        )
    return triplet


def _image_split(root: Path, split: str) -> dict[str, Path]:
    """The images of a split, and the file where each should be."""
    file = root / "cirr" / "image_splits" / f"split.rc2.{split}.json"
    images = read_json(file, dict, layout=LAYOUT)
    return {name: Path(field(images, name, str, where=f"file {file}")) for name in images}


def _once(members: list) -> list:
    """The members in their order, each only once."""
    return [member for place, member in enumerate(members) if member not in members[:place]]


def _repeats(members: list) -> bool:
    return len(_once(members)) < len(members)


def cirr_metrics(ranks: Indices, group_ranks: Indices) -> dict[str, float]:
    """CIRR's recalls and their means, in the column order of published result files.

    `mean(R@5+R_s@1)` is the headline. The arithmetic, harmonic and geometric means are those of
    the seven recalls before it. A recall of zero makes the last two zero.

    Args:
        ranks: [M], from the whole gallery without the reference.
        group_ranks: [M], from the group without the reference.

    Raises:
        ValueError: there is no query, or the two lengths differ.

    >>> import numpy as np
    >>> metrics = cirr_metrics(np.array([0, 4, 60, 7]), np.array([0, 0, 1, 3]))
    >>> metrics["recall_at5"], metrics["group_recall_at1"], metrics["mean(R@5+R_s@1)"]
    (50.0, 50.0, 50.0)
    """
    if ranks.shape != group_ranks.shape:
        raise ValueError(f"{ranks.shape} ranks, but {group_ranks.shape} group ranks")
    metrics = _group_recalls(group_ranks) | _recalls(ranks)
    recalls = list(metrics.values())
    metrics["mean(R@5+R_s@1)"] = (metrics["recall_at5"] + metrics["group_recall_at1"]) / 2
    metrics["arithmetic_mean"] = statistics.mean(recalls)
    metrics["harmonic_mean"] = statistics.harmonic_mean(recalls)
    # statistics.geometric_mean refuses a zero before Python 3.13.
    metrics["geometric_mean"] = statistics.geometric_mean(recalls) if all(recalls) else 0.0
    return metrics


def _recalls(ranks: Indices) -> dict[str, float]:
    return {f"recall_at{k}": recall_at(ranks, k) for k in CUTOFFS}


def _group_recalls(ranks: Indices) -> dict[str, float]:
    return {f"group_recall_at{k}": recall_at(ranks, k) for k in GROUP_CUTOFFS}


def write_submission(
    folder: Path,
    *,
    pair_ids: Sequence[str],
    references: Sequence[str],
    retrieved: Sequence[Sequence[str]],
    group_retrieved: Sequence[Sequence[str]],
) -> list[Path]:
    """Write CIRR's two files, or neither of them, and return their paths.

    Args:
        folder: created if it is missing.
        pair_ids: one a query.
        references: one a query; must not be in its own lists.
        retrieved: names, best first, at least 50 a query.
        group_retrieved: names of the image group, best first, at least 3 a query.

    Raises:
        UserError: the answers break a rule of the server.
    """
    repeated = [pair_id for pair_id, count in Counter(pair_ids).items() if count > 1]
    if repeated:
        raise UserError(
            f"two queries share the pair id {repeated[0]}; check the split's captions file."
        )
    encoded: dict[str, bytes] = {}
    for metric, lists, length in (
        ("recall", retrieved, RECALL_NAMES),
        ("recall_subset", group_retrieved, SUBSET_NAMES),
    ):
        rankings = {p: list(names[:length]) for p, names in zip(pair_ids, lists, strict=True)}
        check_rankings(rankings, dict(zip(pair_ids, references, strict=True)), length=length)
        content = {"version": "rc2", "metric": metric, **rankings}
        encoded[FILES[metric]] = _encoded(content)
    return write_all(folder, encoded)


def check_rankings(
    rankings: dict[str, list[str]], references: dict[str, str], *, length: int
) -> None:
    """UserError unless every query has `length` different names, without its own reference."""
    for pair_id, names in rankings.items():
        if len(names) != length or len(set(names)) != length:
            raise UserError(
                f"pair {pair_id} has {len(set(names))} different names where the server wants "
                f"{length}; the gallery or the image group is too small."
            )
        if references[pair_id] in names:
            raise UserError(f"pair {pair_id} ranks its own reference {references[pair_id]}.")


def _encoded(content: Mapping[str, object]) -> bytes:
    encoded = json.dumps(content, separators=(",", ":")).encode()
    if len(encoded) > MOST_BYTES:
        raise UserError(
            f"the submission takes {len(encoded)} bytes, more than the server's {MOST_BYTES}; "
            "submit fewer queries."
        )
    return encoded


def _read(root: Path, split: str, *, choice: Choice, listings: Listings) -> list[Split]:
    return [parse_cirr(root, split, gallery=choice.gallery, listings=listings)]


def _metrics(answers: Sequence[Answers]) -> dict[str, float]:
    [ranking] = answers
    ranks, group_ranks = ranking.target_ranks, ranking.group_ranks
    if not group_ranks.size:  # only one of the server's two files was given
        return _recalls(ranks)
    return cirr_metrics(ranks, group_ranks) if ranks.size else _group_recalls(group_ranks)


def _read_answers(content: Any, splits: Sequence[Split]) -> Given:
    """One of the server's two files, or the plain form, which holds no groups."""
    if not isinstance(content, dict) or "metric" not in content:
        return plain(content, splits)
    if content.get("version") != "rc2" or content["metric"] not in [
        *FILES
    ]:  # which may not be hashable
        raise UserError(
            f'must have "version": "rc2" and as "metric" one of {", ".join(FILES)}, not '
            f"{content.get('version')!r} and {content['metric']!r}"
        )
    rankings = {key: value for key, value in content.items() if key not in ("version", "metric")}
    lists = plain(rankings, splits).lists
    return Given(lists) if content["metric"] == "recall" else Given(groups=lists)


def _submit(folder: Path, split: str, answers: Sequence[Answers]) -> list[Path]:
    [ranking] = answers
    triplets = ranking.split.triplets
    return write_submission(
        folder,
        pair_ids=[triplet.query_id for triplet in triplets],
        references=[triplet.reference for triplet in triplets],
        retrieved=[ranking.names(number) for number in range(len(triplets))],
        group_retrieved=[ranking.group_names(number) for number in range(len(triplets))],
    )


CIRR = Benchmark(
    name="CIRR",
    read=_read,
    metrics=_metrics,
    headline="mean(R@5+R_s@1)",
    headings={
        **{f"recall_at{k}": f"R@{k}" for k in (1, 5, 10, 50)},
        **{f"group_recall_at{k}": f"Rs@{k}" for k in (1, 2, 3)},
        "mean(R@5+R_s@1)": "(R@5+Rs@1)/2",
    },
    splits=SPLITS,
    folder=Path("cirr_dataset"),
    origin="https://github.com/Cuberick-Orion/CIRR",
    drawn=True,
    sign="cirr/captions",
    submission=_submit,
    read_answers=_read_answers,
    rules=Rules(RECALL_NAMES, SUBSET_NAMES, exactly=True, most_bytes=MOST_BYTES),
    copies=Copies(
        parts=lambda root: {f"rc2.{split}": partial(parse_cirr, root, split) for split in SPLITS},
        places=places_by_path,
    ),
)
