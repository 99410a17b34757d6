"""CIRR: one caption a query, image sets of six, one gallery a split."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from gatedcir.data.annotations import CORRECT, field, read_json
from gatedcir.data.image_files import OTHER_ENDINGS, Index, Listings, only_file
from gatedcir.data.triplets import Split, Triplet, too_few
from gatedcir.errors import UserError

SPLITS = ("train", "val", "test1")
IMAGE_FOLDERS = ("", "img_raw", "images")
LAYOUT = (
    "ROOT/cirr/captions/cap.rc2.SPLIT.json, ROOT/cirr/image_splits/split.rc2.SPLIT.json, "
    "ROOT/{train,dev,test1}/*.png"
)


def parse_cirr(
    root: Path, split: str, *, gallery: str = "split", listings: Listings | None = None
) -> Split:
    """The split train, val or test1 of the CIRR release rc2 below `root`; images need not exist.

    The target is `target_hard` alone; test1 publishes none. The gallery is that of the split, or
    with `gallery` "all" the images of the other two splits follow. An image set that names a
    member twice counts it once, and the protocol line says how many sets do. `listings` may be
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
    if len(relative) < 2:  # where no entry could have a reference and a target
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
        paths=_files(root, relative, listings or Listings()),
        protocol=f"gallery of {len(relative)} images{kind}, reference removed, "
        f"{len(triplets)} queries{note}",
        reference_removed=True,
        searched=f"looked for them below {_listed(root)}, under the names in "
        f"split.rc2.{split}.json, and also without their sub-folders and {OTHER_ENDINGS}",
    )


def _triplet(entry: object, images: dict[str, Path], *, split: str, where: str) -> Triplet:
    image_set = field(entry, "img_set", dict, where=where)
    triplet = Triplet(
        query_id=str(field(entry, "pairid", int, where=where)),
        reference=field(entry, "reference", str, where=where),
        target=None if split == "test1" else field(entry, "target_hard", str, where=where),
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
    """The images of a split, and where each should be."""
    file = root / "cirr" / "image_splits" / f"split.rc2.{split}.json"
    images = read_json(file, dict, layout=LAYOUT)
    return {name: Path(field(images, name, str, where=f"file {file}")) for name in images}


def _once(members: list) -> list:
    """The members in their order, each of them once."""
    return [member for place, member in enumerate(members) if member not in members[:place]]


def _repeats(members: list) -> bool:
    return len(_once(members)) < len(members)


def _files(root: Path, images: Mapping[str, Path], listings: Listings) -> dict[str, Path]:
    """The file of each image.

    The first of IMAGE_FOLDERS that holds the very file that the split names wins. Else the image
    may have another ending, or lie in a folder above. What is found nowhere should be where most
    of the others are.
    """
    bases = [root / folder for folder in IMAGE_FOLDERS]
    found: dict[str, Path] = {}
    used: Counter[Path] = Counter()
    for name, path in images.items():
        for base in bases:
            if path.name in listings.names((base / path).parent):
                found[name] = base / path
                used[base] += 1
                break
        else:
            file = only_file(path.stem, _other_places(bases, path, listings))
            if file is not None:
                found[name] = file
    usual = max(bases, key=used.__getitem__)
    return {name: found.get(name, usual / path) for name, path in images.items()}


def _other_places(bases: list[Path], path: Path, listings: Listings) -> list[Index]:
    """What lies in the folder of an image and in those above it, up to the bases."""
    if path.is_absolute() or ".." in path.parts:
        return []
    return [listings.images(base / folder) for base in bases for folder in path.parents]


def _listed(root: Path) -> str:
    *first, last = (str(root / folder) for folder in IMAGE_FOLDERS)
    return f"{', '.join(first)} and {last}"
