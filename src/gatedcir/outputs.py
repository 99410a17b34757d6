"""Which files a command may write over: its own earlier outputs, and no other file."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from gatedcir.errors import UserError, check_folder_to_write

_SHARED = Path("/dev/shm")
_NO_DISKS = (Path("/dev"), Path("/proc"), Path("/sys"))
_MOST_LINKS = 40  # that a system follows
_ENDS = 2**16  # bytes at both ends of a file, in which its sign stands

PAGE_SIGN = '<meta name="generator" content="gatedcir">'
SIGNS = {
    "figures": rb'\A\{\r?\n(  .*\n)*?  "protocol": \{',
    "findings.json": rb'\A\{\r?\n  "dataset": .*\n  "folder": .*\n  "queries": ',
    "findings.txt": rb"\A.+ in .+: .*(\d images|images not read)",
    "page": re.escape(PAGE_SIGN.encode()),
    "findings.html": re.escape(PAGE_SIGN.encode()),
    "ranks.csv": rb"\Asplit,query_id,reference,text,target,targets,rank,",
    "ranks.parquet": rb"\APAR1(?s:.*)query_id(?s:.*)group_rank",
    "trec": rb"\A\S+ Q0 \S+ 1 \S+ \S+\r?\n",
    "qrels": rb"\A\S+ 0 \S+ 1\r?\n",
    "architecture": rb"\A<svg .*\n  <title>Architecture of ",
    "comparison": rb"\A.+, %\r?\n",
    "picture": rb"https://matplotlib\.org",
    "snapshot": rb"\A(?s:.{257})ustar",
}
"""A kind of output -> how to tell it, a regular expression. A file of another kind is not ours."""


def check_file_to_write(path: Path, flag: str, kind: str) -> None:
    """UserError if a file cannot be written, or if it would replace one that is not our own.

    Args:
        path: where the file goes.
        flag: that named it.
        kind: of the file, a key of `SIGNS`.
    """
    if path.is_dir():
        raise UserError(f"{flag} {path} is a folder; name a file in it.")
    check_replaceable(path, flag)
    check_own(path, kind, flag)
    check_folder_to_write(path.parent, flag)


def check_files_to_write(files: Iterable[tuple[str, Path | None, str]]) -> None:
    """The same for several files: flag, path, kind. UserError also if two are one file."""
    seen = dict[Path, str]()
    for flag, path, kind in files:
        if path is None:
            continue
        check_file_to_write(path, flag, kind)
        place = Path(os.path.realpath(path))
        if place in seen:
            raise UserError(f"{seen[place]} and {flag} name one file, {path}; name two.")
        seen[place] = flag


def check_own(path: Path, kind: str, flag: str = "") -> None:
    """UserError if a path holds a file that no command has written as an output of this kind."""
    if path.is_file() and not is_own(path, kind):
        raise UserError(
            f"{flag} {path} is no earlier output of this kind, and would be lost; name another "
            "file, or move it away.".lstrip()
        )


def is_own(file: Path, kind: str) -> bool:
    """Whether a file is empty, or has the sign of a kind of output."""
    with file.open("rb") as content:
        start = content.read(_ENDS)
        content.seek(max(len(start), content.seek(0, os.SEEK_END) - _ENDS))
        return not start or re.search(SIGNS[kind], start + content.read()) is not None


def check_replaceable(path: Path, flag: str = "") -> None:
    """UserError if a path is a folder, a device or a pipe. A new file would take its place.

    Also if a link leads there: /dev/stdout may be a file, which others write to.
    """
    place = path
    for _ in range(_MOST_LINKS):
        folder = Path(os.path.realpath(place.parent))
        if place.is_dir():
            kind = "a folder"
        elif _is_of_the_system(folder) or (place.exists() and not place.is_file()):
            kind = "a device or a pipe"
        elif not place.is_symlink():
            return
        else:
            place = place.parent / place.readlink()
            continue
        raise UserError(f"{flag} {path} is {kind}, and no file; name another path.".lstrip())
    raise UserError(f"{flag} {path} is a link to itself; name another path.".lstrip())


def _is_of_the_system(folder: Path) -> bool:
    """Whether a folder's files are not kept on any disk."""
    return _SHARED not in (folder, *folder.parents) and any(
        place in (folder, *folder.parents) for place in _NO_DISKS
    )
