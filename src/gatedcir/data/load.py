"""A dataset's name and folder -> its splits."""

from collections.abc import Sequence
from pathlib import Path

from gatedcir.data.cirr import parse_cirr
from gatedcir.data.fashioniq import CATEGORIES, parse_fashioniq
from gatedcir.data.triplets import Split, check_files, only_used, too_few
from gatedcir.errors import UserError

MOST_WORDS = 100


def load_splits(
    dataset: str,
    root: Path,
    names: Sequence[str],
    *,
    protocol: str = "original",
    skip_missing: bool = False,
) -> list[list[Split]]:
    """For each name the parts that are ranked apart: one for CIRR, one a category for FashionIQ.

    `protocol` is FashionIQ's. Raises UserError as the readers do, once for the files of all.
    """
    parsed = [_parse(dataset, root, name, protocol) for name in names]
    parts = iter(
        check_files([part for split in parsed for part in split], skip_missing=skip_missing)
    )
    splits = [[next(parts) for _ in split] for split in parsed]
    for part in (part for split in splits for part in split):
        check_gallery(part)
        for triplet in part.triplets:
            for caption in triplet.captions:
                check_caption(caption, where=f"query {triplet.query_id} of {part.name}")
    return splits


def _parse(dataset: str, root: Path, name: str, protocol: str) -> list[Split]:
    if dataset == "CIRR":
        parsed = [parse_cirr(root, name)]
    else:
        parsed = [parse_fashioniq(root, c, name, protocol=protocol) for c in CATEGORIES]
    return [only_used(part) for part in parsed] if name == "train" else parsed


def check_gallery(split: Split) -> None:
    """Refuse a gallery that leaves no choice once the reference is taken out; UserError."""
    if len(split.gallery) < 2 + split.reference_removed:
        raise too_few(split.name, len(split.gallery))


def check_caption(caption: str, *, where: str) -> None:
    """Refuse a caption that is no modification sentence; UserError names where it stands.

    The model reads the first 32 tokens. The longest published one has 53 words.
    """
    if not caption.isascii() and any("\ud800" <= letter <= "\udfff" for letter in caption):
        raise UserError(
            f"the caption of {where} holds half of a character (a lone surrogate); write it anew."
        )
    words = len(caption.split())
    if words > MOST_WORDS:
        raise UserError(
            f"the caption of {where} has {words} words; shorten it to {MOST_WORDS} at most, "
            "of which the model reads the first 30 or so."
        )
