"""FashionIQ: two captions a query, three categories, two galleries in use for validation."""

from pathlib import Path

from gatedcir.data.triplets import Split, Triplet, field, names_in, read_json
from gatedcir.errors import UserError

CATEGORIES = ("dress", "shirt", "toptee")
SPLITS = ("train", "val", "test")
PROTOCOLS = ("original", "val-split")
LAYOUT = (
    "ROOT/captions/cap.CATEGORY.SPLIT.json, ROOT/image_splits/split.CATEGORY.SPLIT.json, "
    "ROOT/images/NAME.{jpg,png}"
)


def parse_fashioniq(root: Path, category: str, split: str, *, protocol: str = "original") -> Split:
    """One category of the split train, val or test below `root`; images need not exist.

    The gallery is all of the split file ("original": 3817/6346/5373 images on val) or only its
    references and targets ("val-split": 2628/3089/2902). The test split publishes no targets.
    Raises UserError on an unknown name, a missing or broken annotation file, and a validation
    target that is not in the gallery.
    Source: Wu et al., Fashion IQ, CVPR 2021; "val-split" is the gallery of VAL
    (Chen et al., CVPR 2020).
    """
    _choose("category", category, CATEGORIES)
    _choose("split", split, SPLITS)
    _choose("protocol", protocol, PROTOCOLS)
    captions_file = root / "captions" / f"cap.{category}.{split}.json"
    images_file = root / "image_splits" / f"split.{category}.{split}.json"
    entries = read_json(captions_file, list, layout=LAYOUT)
    listed = read_json(images_file, list, layout=LAYOUT)
    if not all(isinstance(name, str) for name in listed) or len(set(listed)) < len(listed):
        raise UserError(f"The file {images_file} must list image names, each of them once.")
    triplets = tuple(
        _triplet(entry, category, split, number, where=f"entry {number} of {captions_file}")
        for number, entry in enumerate(entries)
    )
    # A dict keeps the order of the file and drops repetitions.
    used = dict.fromkeys(n for t in triplets for n in (t.reference, t.target) if n is not None)
    gallery = tuple(listed if protocol == "original" else filter(used.__contains__, listed))
    _check_targets(triplets, gallery, split=split, images_file=images_file)
    kind = {"original": "original split", "val-split": "VAL split"}[protocol]
    return Split(
        name=f"FashionIQ {category} {split}",
        triplets=triplets,
        gallery=gallery,
        paths=_paths(root / "images", (*gallery, *used)),
        protocol=f"gallery of {len(gallery)} images ({kind}), reference kept",
        reference_removed=False,
        category=category,
    )


def _choose(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"FashionIQ has no {what} '{value}'; choose one of {', '.join(choices)}.")


def _triplet(entry: object, category: str, split: str, number: int, *, where: str) -> Triplet:
    captions = field(entry, "captions", list, where=where)
    if len(captions) != 2 or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"The {where} must have two captions, not {captions!r}.")
    return Triplet(
        query_id=f"{category}-{number}",
        reference=field(entry, "candidate", str, where=where),
        target=None if split == "test" else field(entry, "target", str, where=where),
        captions=tuple(captions),
        pool=category,
    )


def _check_targets(
    triplets: tuple[Triplet, ...], gallery: tuple[str, ...], *, split: str, images_file: Path
) -> None:
    # Training ranks nothing, and a reference outside of the gallery is still a valid query.
    known = set(gallery)
    for triplet in triplets if split == "val" else ():
        if triplet.target not in known:
            raise UserError(
                f"The target '{triplet.target}' of {triplet.query_id} is not in {images_file}; "
                "use caption and split files of the same release."
            )


def _paths(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """The file of each image; a name with neither extension gets .jpg and counts as missing."""
    present = names_in(folder)

    def suffix(name: str) -> str:
        return ".png" if f"{name}.png" in present and f"{name}.jpg" not in present else ".jpg"

    return {name: folder / f"{name}{suffix(name)}" for name in names}
