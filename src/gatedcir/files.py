"""Files and folders that are written whole or not at all.

Both are made under a unique name next to their target. They get the target's name when everything
is written. This module removes only files that it made itself.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gatedcir.errors import UserError
from gatedcir.outputs import check_replaceable

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

UNFINISHED = ".unfinished"  # ends what is being written next to its place
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_NO_DISK = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN)
_NOT_READ = (
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EACCES, errno.EPERM),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
)
# Errors without a number: of torch, and of SQLite.
_SAYS_NO_ROOM = (
    "unexpected pos",
    "PytorchStreamWriter failed",
    "basic_ios::clear",  # the same, where the end of a file no longer fits
    "database or disk is full",
)
_MB = 1e6
_UMASK = os.umask(0)  # is read by setting it
os.umask(_UMASK)
_WINDOWS = os.name == "nt"
_PAUSES = (0.1, 0.5, 2.0)  # seconds
CONFIG_FILE = "config.yaml"  # the options of a run, in its folder


class NotReadError(UserError):
    """The system did not give a file, which may be good."""


def check_was_read(file: Path, error: Exception) -> None:
    """NotReadError if an error of reading a file says nothing about its content."""
    if reason := _words(error, _NOT_READ):
        raise NotReadError(
            f"{file} cannot be read ({reason}), and may be good; mend that, and repeat the command."
        ) from None


@contextmanager
def whole_file(path: Path, *, size: int = 0) -> Iterator[Path]:
    """Where to write a file that becomes `path` when the block ends without an error.

    An existing file is replaced. Its folder is made if it is missing. If there is no room, the
    block ends as `room_for` says.
    """
    with whole_files(path, size=size) as folder:
        yield folder / path.resolve().name


@contextmanager
def whole_files(*paths: Path, size: int = 0) -> Iterator[Path]:
    """A folder for several files. They move to their place if the block ends without an error.

    All of them must be written. They move in the order of `paths`. If there is no room, the block
    ends as `room_for` says of the last one.

    Raises:
        UserError: a folder, a device or a pipe is in the place of one.
    """
    for path in paths:
        check_replaceable(path)
    with room_for(paths[-1], size=size), _next_to(paths[0]) as unfinished:
        folder = unfinished.parent
        yield folder
        places = [(folder / path.resolve().name, path) for path in paths]
        for written, _ in places:
            settle(written)
        for written, path in places:
            _rename(written, path)


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8, written whole or not at all. Its folder is made if it is missing."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Indented JSON, written whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. ValueError if it is none, or is nested too deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


@contextmanager
def whole_folder(path: Path, *, size: int = 0) -> Iterator[Path]:
    """A new folder to fill that becomes `path` when the block ends without an error.

    At that time, `path` must be missing or an empty folder. The folder above it is made if it is
    missing. If there is no room, the block ends as `room_for` says.
    """
    with room_for(path, size=size), _next_to(path) as unfinished:
        unfinished.mkdir()
        yield unfinished
        for place in (*unfinished.rglob("*"), unfinished):
            settle(place)
        if path.is_dir():
            path.resolve().rmdir()  # Windows does not replace an empty folder. Full ones raise.
        _rename(unfinished, path)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed have left in a folder, which nobody writes now."""
    for left in folder.glob(f"*{UNFINISHED}"):
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def room_for(path: Path, *, size: int = 0) -> Iterator[None]:
    """Turn every library's error of a full or broken disk into one that names the file.

    Args:
        path: what the block writes.
        size: the bytes that it needs, if they are known.

    Raises:
        UserError: the disk is full, a quota is used up, or a limit on file sizes is reached; or the
            disk does not answer, or may not be written.
    """
    there = next(place for place in path.resolve().parents if place.is_dir())
    try:
        if size > shutil.disk_usage(there).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
    except Exception as error:
        needs = f"it needs {size / _MB:.1f} MB, and " if size else ""
        if reason := _words(error, _NO_ROOM, _SAYS_NO_ROOM):
            free = f"{shutil.disk_usage(there).free / _MB:.1f} MB are free on its disk{_limit()}"
            way_out = "make room, or write to another disk"
        elif _is_of(error, there) and (reason := _words(error, _NO_DISK)):
            free, way_out = "its disk does not take it", "mend that, or write to another disk"
        else:
            raise
        raise UserError(f"{path} could not be written ({reason}): {needs}{free}; {way_out}.") from (
            error
        )


def _is_of(error: Exception, folder: Path) -> bool:
    """Whether an error of the file system names no file elsewhere, which was only read."""
    name = getattr(error, "filename", None)
    if not isinstance(error, OSError) or name is None:
        return isinstance(error, OSError)
    return folder in Path(os.fsdecode(name)).resolve().parents


def _words(
    error: BaseException | None, codes: Collection[int], signs: Collection[str] = ()
) -> str | None:
    """The system's words if an error, or its cause, has one of the codes or says a sign of it."""
    says = False
    while error is not None:
        for code in codes:
            number = error.errno if isinstance(error, OSError) else None
            if number == code or f"(os error {code})" in str(error):  # the form in Rust's libraries
                return os.strerror(code)
        says = says or any(sign in str(error) for sign in signs)
        error = error.__cause__ or error.__context__
    return "no room for it" if says else None


def _limit() -> str:
    """The message about the limit on the size of this process' files."""
    if resource is None:
        return ""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most == resource.RLIM_INFINITY:
        return ""
    return f", where one file may have {most / _MB:.1f} MB at most (ulimit -f)"


@contextmanager
def _next_to(path: Path) -> Iterator[Path]:
    """A path with the name of `path`, on the same disk, in a folder that is removed at the end.

    If a failing disk keeps the folder, that error does not hide the first one.
    """
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=target.parent,
        prefix=f"{target.name[:50]}.",
        suffix=UNFINISHED,
        ignore_cleanup_errors=True,
    ) as folder:
        yield Path(folder) / target.name


def _rename(unfinished: Path, path: Path) -> None:
    target = path.resolve()  # a link to elsewhere stays a link
    for pause in _PAUSES if _WINDOWS else ():
        try:
            unfinished.replace(target)
            break
        except PermissionError:  # Windows replaces no file that somebody reads
            time.sleep(pause)
    else:
        unfinished.replace(target)
    _sync(target.parent)


def settle(file: Path) -> None:
    """Flush what was written, with the rights that a new file has. Some libraries give it fewer."""
    if file.is_file():
        file.chmod(0o666 & ~_UMASK)
    _sync(file)


def _sync(place: Path) -> None:
    """Flush to disk, so that a power cut does not leave a name without its content."""
    if _WINDOWS and place.is_dir():
        return  # it opens no folders
    descriptor = os.open(place, os.O_RDWR if _WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_only_files(*folders: Path) -> None:
    """UserError if a folder holds a pipe or a device, whose reading may never end."""
    for folder in folders:
        for place in sorted(folder.iterdir()) if folder.is_dir() else ():
            if place.exists() and not place.is_file() and not place.is_dir():
                raise UserError(f"{place} is a pipe or a device, no file; copy the folder again.")


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of modification of a file. They are cheap to compare."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc32(path: Path) -> int:
    """CRC-32 of a file's content, several times faster than its `digest`."""
    found = 0
    with path.open("rb") as file:
        while part := file.read(2**20):
            found = zlib.crc32(part, found)
    return found


def sums_of(folder: Path, *names: str) -> dict[str, int]:
    """CRC-32 of files in a folder, by name."""
    return {name: crc32(folder / name) for name in names}


def check_sums(folder: Path, noted: Mapping[str, int], *names: str) -> None:
    """ValueError if one of the files has another checksum than is noted of it, if one is."""
    for name in names:
        if name in noted and crc32(folder / name) != noted[name]:
            raise ValueError(f"{name} has another checksum")


def write_all(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files of a folder, all or none. Returns their paths."""
    files = [folder / name for name in contents]
    with whole_files(*files) as unfinished:
        for name, content in contents.items():
            (unfinished / name).write_bytes(content)
    return files
