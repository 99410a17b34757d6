"""What can be wrong with a data set, what training does with it, and what changes that."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from gatedcir.data.annotations import CORRECT
from gatedcir.errors import UserError

STOPS = "stops before its first step"
SKIPPING = "training with --skip-unreadable leaves out the image and the triplets that need it"
NO_FLAG = "no flag"


class Kind(NamedTuple):
    """A kind of finding."""

    title: str
    training: str
    """What training and evaluation do with it."""
    way_out: str
    """The flag that changes this, and what to do without one."""


KINDS = {
    "broken file": Kind(
        "annotation files that cannot be read", STOPS, f"{NO_FLAG}; download the file again"
    ),
    "wrong entry": Kind(
        "entries with a missing key, a wrong type or an unusable value",
        STOPS,
        f"{NO_FLAG}; correct the entry",
    ),
    "id twice": Kind("ids of two queries", STOPS, f"{NO_FLAG}; give each query its own id"),
    "not in gallery": Kind(
        "triplets that name an image which is not in their gallery",
        STOPS,
        f"{NO_FLAG}; use caption and split files of one release",
    ),
    "target is reference": Kind(
        "triplets whose target is their reference",
        f"{STOPS} for CIRR. Other data sets use the triplet as it is",
        f"{NO_FLAG}; correct the triplet",
    ),
    "group repeats": Kind(
        "groups that name a member twice",
        "counts the member once, and the report says so",
        f"{NO_FLAG}; correct the group if it should have more members",
    ),
    "small gallery": Kind("galleries that leave no choice", STOPS, f"{NO_FLAG}; add images"),
    "empty caption": Kind(
        "empty captions",
        "uses the other caption of two, else an empty text",
        f"{NO_FLAG}; write the caption",
    ),
    "long caption": Kind("captions of more than 100 words", STOPS, f"{NO_FLAG}; shorten them"),
    "cut caption": Kind(
        "captions of more than 30 words",
        "reads the first 32 tokens alone",
        f"{NO_FLAG}; say what matters first",
    ),
    "half character": Kind(
        "captions with half of a character", STOPS, f"{NO_FLAG}; write the caption again"
    ),
    "other encoding": Kind(
        "captions that were read in another encoding",
        "reads the wrong letters as they are",
        f"{NO_FLAG}; save the file as UTF-8 from its source",
    ),
    "missing image": Kind("images without a file", STOPS, SKIPPING),
    "two files": Kind("images with two files", STOPS, f"{NO_FLAG}; keep one of the files"),
    "no image": Kind("files that are no image", STOPS, SKIPPING),
    "cut short": Kind("images that are cut short or damaged", STOPS, SKIPPING),
    "too many pixels": Kind("images with too many pixels to be opened", STOPS, SKIPPING),
    "unreadable image": Kind("images that cannot be read for another reason", STOPS, SKIPPING),
    "animated": Kind(
        "images of several frames", "reads the first frame", f"{NO_FLAG}; save the frame you mean"
    ),
    "CMYK": Kind(
        "images in CMYK",
        "converts them to RGB without their colour profile",
        f"{NO_FLAG}; save them as RGB if colours matter",
    ),
    "16 bits": Kind(
        "images of more than 8 bits a channel",
        "scales them to 8 bits",
        f"{NO_FLAG}; save them with 8 bits for another scale",
    ),
    "transparent": Kind(
        "images with transparent pixels",
        "drops the transparency, so that hidden colours show",
        f"{NO_FLAG}; draw them on a background",
    ),
    "rotated": Kind(
        "images that their EXIF block turns",
        "turns them upright. Release 0.1 did not",
        f"{NO_FLAG}; features of that release are not used again",
    ),
    "extreme shape": Kind(
        "images more than four times as long as wide",
        "pads them, and the crop loses both ends",
        "training with --transform squarepad keeps the whole image",
    ),
    "leak": Kind(
        "images that training uses and that are searched in evaluation",
        "uses them in both, so that recall may be too high",
        f"{NO_FLAG}; take them out of one split",
    ),
    "equal images": Kind(
        "equal images under several names",
        "counts them as different, so that a copy of the target is a wrong answer",
        f"{NO_FLAG}; keep one name of each",
    ),
    "near leak": Kind(
        "nearly equal images, of which training uses one and evaluation the other",
        "uses both, so that recall may be too high",
        f"{NO_FLAG}; look at them, and take them out of one split",
    ),
    "near-duplicates": Kind(
        "nearly equal images",
        "counts them as different",
        f"{NO_FLAG}; look at them, and keep one if they show the same",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    kind: str
    place: str
    """The entry, the image or the file."""
    detail: str


class Findings:
    """All that was found, each once, in its order."""

    def __init__(self) -> None:
        self._kept: dict[Finding, None] = {}

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def note(self, kind: str, place: str, detail: str) -> None:
        """Add a finding. Its kind must be known."""
        assert kind in KINDS, kind
        self._kept[Finding(kind, place, detail)] = None

    @contextmanager
    def of(self, kind: str, place: str) -> Iterator[None]:
        """Make a finding of a UserError in the block."""
        try:
            yield
        except UserError as error:
            self.note(kind, place, str(error).removesuffix(f"; {CORRECT}."))

    def by_kind(self) -> dict[str, list[Finding]]:
        """The findings of each kind that has some, in the order of `KINDS`."""
        found = {kind: [each for each in self if each.kind == kind] for kind in KINDS}
        return {kind: each for kind, each in found.items() if each}
