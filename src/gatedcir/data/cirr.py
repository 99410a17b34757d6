"""CIRR: one caption a query, image sets of six, one gallery a split."""

from pathlib import Path

from gatedcir.data.triplets import Split, Triplet, field, read_json, too_few
from gatedcir.errors import UserError

SPLITS = ("train", "val", "test1")
IMAGE_FOLDERS = ("", "img_raw", "images")
LAYOUT = (
    "ROOT/cirr/captions/cap.rc2.SPLIT.json, ROOT/cirr/image_splits/split.rc2.SPLIT.json, "
    "ROOT/{train,dev,test1}/*.png"
)


def parse_cirr(root: Path, split: str) -> Split:
    """The split train, val or test1 of the CIRR release rc2 below `root`; images need not exist.

    The target is `target_hard` alone; test1 publishes none. Raises UserError on an unknown split,
    a missing or broken annotation file, and an image that the image split does not list.
    Source: Liu et al., Image Retrieval on Real-life Images, ICCV 2021.
    """
    if split not in SPLITS:
        raise UserError(f"CIRR has no split '{split}'; choose one of {', '.join(SPLITS)}.")
    captions_file = root / "cirr" / "captions" / f"cap.rc2.{split}.json"
    images_file = root / "cirr" / "image_splits" / f"split.rc2.{split}.json"
    entries = read_json(captions_file, list, layout=LAYOUT)
    images = read_json(images_file, dict, layout=LAYOUT)
    relative = {
        name: Path(field(images, name, str, where=f"file {images_file}")) for name in images
    }
    if len(relative) < 2:  # where no entry could have a reference and a target
        raise too_few(f"CIRR {split}", len(relative))
    triplets = tuple(
        _triplet(entry, relative, split=split, where=f"entry {number} of {captions_file}")
        for number, entry in enumerate(entries)
    )
    if len({triplet.query_id for triplet in triplets}) < len(triplets):
        raise UserError(f"The file {captions_file} repeats a pairid; download the file again.")
    folder = _image_folder(root, relative)
    return Split(
        name=f"CIRR {split}",
        triplets=triplets,
        gallery=tuple(relative),
        paths={name: folder / path for name, path in relative.items()},
        protocol=f"gallery of {len(relative)} images, reference removed",
        reference_removed=True,
    )


def _triplet(entry: object, images: dict[str, Path], *, split: str, where: str) -> Triplet:
    image_set = field(entry, "img_set", dict, where=where)
    triplet = Triplet(
        query_id=str(field(entry, "pairid", int, where=where)),
        reference=field(entry, "reference", str, where=where),
        target=None if split == "test1" else field(entry, "target_hard", str, where=where),
        captions=(field(entry, "caption", str, where=where),),
        group=tuple(field(image_set, "members", list, where=f"img_set of {where}")),
        pool=str(field(image_set, "id", int, where=f"img_set of {where}")),
    )
    for name in (triplet.reference, triplet.target, *triplet.group):
        if name is not None and (not isinstance(name, str) or name not in images):
            raise UserError(
                f"The {where} names the image '{name}', which is not in split.rc2.{split}.json; "
                "use caption and split files of the same release."
            )
    if triplet.target is not None and (
        triplet.target == triplet.reference or triplet.group.count(triplet.target) != 1
    ):
        raise UserError(
            f"The {where} needs a target that is not its reference and stands once in "
            "img_set.members; download the file again."
        )
    return triplet


def _image_folder(root: Path, images: dict[str, Path]) -> Path:
    """The first place below `root` that has one of the split's top folders, else `root` itself."""
    tops = {path.parts[0] for path in images.values() if path.parts}
    candidates = [root / folder for folder in IMAGE_FOLDERS]
    return next((c for c in candidates if any((c / top).is_dir() for top in tops)), root)
