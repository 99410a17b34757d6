"""What is wrong with the triplets of a part of a data set."""

from gatedcir.benchmarks.load import MOST_WORDS
from gatedcir.doctor.findings import Findings
from gatedcir.doctor.parts import Entry, Part, repeated

READ_WORDS = 30  # about the 32 tokens that the model reads


def check_part(part: Part, notes: Findings) -> None:
    """Note what is wrong with a part's ids, images and captions."""
    seen: dict[str | int, str] = {}
    known = set(part.gallery)
    for entry in part.entries:
        if entry.query is not None and seen.setdefault(entry.query, entry.place) != entry.place:
            notes.note("id twice", entry.place, f"id {entry.query} is that of {seen[entry.query]}")
        _check_images(entry, part, known, notes)
        _check_captions(entry, notes)
    if part.entries and not part.trains and len(part.gallery) == 1:
        notes.note("small gallery", part.name, "its gallery has one image")


def _check_images(entry: Entry, part: Part, known: set[str], notes: Findings) -> None:
    reference = () if entry.reference is None else (entry.reference,)
    named = {"reference": reference, "target": entry.targets, "group": entry.group}
    for what in ("reference", "target", "group"):
        for name in dict.fromkeys(named[what]) if what in part.listed else ():
            if name not in known:
                notes.note("not in gallery", entry.place, f"{what} {name} is not in {part.name}")
    if entry.reference is not None and entry.reference in entry.targets:
        notes.note("target is reference", entry.place, f"both are {entry.reference}")
    target = entry.targets[0] if entry.targets else None
    if entry.group and target in known and target not in entry.group:
        notes.note("wrong entry", entry.place, f"target {target} is not in its group")
    if names := repeated(entry.group):
        notes.note("group repeats", entry.place, f"{', '.join(names)}")


def _check_captions(entry: Entry, notes: Findings) -> None:
    for caption in entry.captions:
        words = len(caption.split())
        if any("\ud800" <= letter <= "\udfff" for letter in caption):
            notes.note("half character", entry.place, ascii(caption))
        elif not words:
            notes.note("empty caption", entry.place, f"the caption is {caption!r}")
        elif words > MOST_WORDS:
            notes.note("long caption", entry.place, f"{words} words: {_start(caption)}")
        elif words > READ_WORDS:
            notes.note("cut caption", entry.place, f"{words} words: {_start(caption)}")
        elif "\ufffd" in caption or _is_misread(caption):
            notes.note("other encoding", entry.place, caption)


def _start(caption: str) -> str:
    return f"{caption[:60]}..."


def _is_misread(caption: str) -> bool:
    """Whether a text is UTF-8 that was read as Latin-1 or as Windows' code.

    >>> [_is_misread(text) for text in ("cafÃ©", "itâ€™s red", "café", "it’s red", "plain")]
    [True, True, False, False, False]
    """
    if caption.isascii():
        return False
    for code in ("latin-1", "cp1252"):
        try:
            return caption.encode(code).decode("utf-8") != caption
        except UnicodeError:
            continue
    return False
