"""The common form of every dataset: triplets, a gallery in ranking order, and image files."""

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from gatedcir.errors import UserError


@dataclass(frozen=True)
class Triplet:
    """One query and its answers.

    `targets` holds the right images, mostly one, or none if the split publishes none. `target`
    is the first, which recall counts. Training takes another of them in every epoch. `group` holds
    CIRR's image set as published, the reference included, and is empty for other data. `pool` is
    the same for triplets with similar images: the number of CIRR's image set, or FashionIQ's
    category. `aspects` are what the text asks for, in CIRCO's words.
    """

    query_id: str
    reference: str
    targets: tuple[str, ...]
    captions: tuple[str, ...]
    group: tuple[str, ...] = ()
    pool: str = ""
    aspects: tuple[str, ...] = ()

    @property
    def target(self) -> str | None:
        """The first of the targets. None where there is none."""
        return self.targets[0] if self.targets else None


@dataclass(frozen=True)
class Split:
    """The triplets of one split and the gallery, in the order in which ties are broken.

    `searched` gives the names and places of the search, for the message of a missing image.
    `note` ends the protocol line, also that of a training split. `skipped` counts the triplets
    that were left out because one of their images was.
    """

    name: str
    triplets: tuple[Triplet, ...]
    gallery: tuple[str, ...]
    paths: dict[str, Path]
    protocol: str
    reference_removed: bool
    category: str | None = None
    searched: str = ""
    note: str = ""
    skipped: int = 0


def evaluation_text(captions: tuple[str, ...]) -> str:
    """The text of a query at evaluation: one caption as it is, two joined by "and".

    A blank one of two is left out. Raises ValueError unless there are one or two captions.
    Source: FashionIQ evaluation of CLIP4Cir and SPRC. As there, `capitalize` lowers the rest.

    >>> evaluation_text(("Is Red.", " has a V-neck, "))
    'Is red and has a V-neck'
    >>> evaluation_text(("", "is grey"))
    'Is grey'
    """
    if len(captions) == 1:
        return captions[0]
    return _join(_usable(captions))


def training_text(captions: tuple[str, ...], rng: random.Random) -> str:
    """The text of a query in training: one caption as it is, two in one of four forms.

    Each form has probability 1/4: first and second, second and first, first alone, second alone.
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


TrainingText = Callable[[tuple[str, ...], random.Random], str]
"""Captions and a generator -> the text of a query in training."""


def only_used(split: Split, also: Collection[str] = ()) -> Split:
    """A training split with only the parts that training uses. Training needs no ranking.

    Each triplet keeps its reference and its targets. `also` names images that keep their paths
    without a triplet of the split: those of further captions.
    """
    used = {name for t in split.triplets for name in (t.reference, *t.targets)}
    gallery = tuple(name for name in split.gallery if name in used)
    count = sum(name in used for name in split.paths)
    paths = {name: p for name, p in split.paths.items() if name in used or name in also}
    protocol = f"{len(split.triplets)} triplets of {count} images"
    triplets = tuple(replace(t, group=()) for t in split.triplets)
    return replace(split, triplets=triplets, gallery=gallery, paths=paths, protocol=protocol)


def first(split: Split, limit: int, *, train: bool, also: Collection[str] = ()) -> Split:
    """A split with only its first triplets, as its protocol says. The gallery stays whole.

    A training split keeps only the images that these triplets use, and the paths of `also`.
    """
    if limit >= len(split.triplets):
        return split
    found = replace(split, triplets=split.triplets[:limit])
    found = only_used(found, also) if train else found
    note = f", only the first {limit} of {len(split.triplets) if train else 'them'}"
    return replace(found, protocol=found.protocol + note)


def too_few(split: str, images: int) -> UserError:
    """The error of a gallery that leaves no choice."""
    return UserError(
        f"the gallery of {split} has {images} image(s), which leaves nothing to rank; check the "
        "split's file."
    )


def _usable(captions: tuple[str, ...]) -> list[str]:
    if len(captions) != 2:
        raise ValueError(f"one or two captions expected, got {len(captions)}")
    stripped = [caption.strip(".?, ") for caption in captions]
    return [caption for caption in stripped if caption.strip()]


def _join(parts: list[str]) -> str:
    return " and ".join([parts[0].capitalize(), *parts[1:]]) if parts else ""
