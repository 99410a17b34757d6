"""Bad input ends a command with one sentence, never with a traceback."""

import errno
import os
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from gatedcir.children import end_with_starter

_SHARED = Path("/dev/shm")
# Messages of torch if the processes that load images cannot pass them on.
_SHARED_MEMORY = (
    "out of shared memory",
    "unable to write to file </torch_",
    "unable to mmap",
    "unable to allocate shared memory",
    "unable to open shared memory",
    "unable to resize file </torch_",
)
# Limits of this process that give the same messages, by the system's words.
_LIMITS = {
    os.strerror(errno.EFBIG): "the limit on the size of a file (ulimit -f)",
    os.strerror(errno.EMFILE): "the limit on open files (ulimit -n)",
}
_LOOP = "Symlink loop from"  # pathlib's message of a link that leads to itself
_NO_MEMORY = ("can't allocate memory", "out of memory")  # torch's messages, on CPUs and GPUs
# Errors of the file system -> the way out. Others ask to look at the path.
_WAYS_OUT = {
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.EEXIST: "name another, or move what is there away",
    errno.EISDIR: "name a file, or move the folder away",
    errno.EACCES: "name another place, or change its permissions",
    errno.EPERM: "name another place, or change its permissions",
    errno.EROFS: "name another place",
}


class UserError(Exception):
    """Bad input. The message is one sentence that names the thing and the way out."""


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end, and it did so in good order."""

    def __init__(self, number: int, message: str = "") -> None:
        """Its number, and a line that says how to go on."""
        super().__init__(message)
        self.number = number
        self.status = 130 if number == signal.SIGINT else 0
        """The exit status. A scheduler sends other signals than Ctrl-C, and has what it wants."""


def reason_of(error: Exception) -> str:
    """The first line of a library's error, without its full stop."""
    return (str(error).splitlines() or [""])[0].rstrip(".:") or type(error).__name__


def is_lack_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, of Python or of torch."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY)


def plain(text: str) -> str:
    r"""A text on one line, without what a terminal would obey.

    >>> plain("a name\n\x1b[2J")
    'a name\\n\\x1b[2J'
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def check_folder_to_write(path: Path, flag: str) -> None:
    """UserError if a file is in place of the folder or a parent, or the folder cannot be made."""
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            raise UserError(
                f"{flag} needs the folder {place}, which is a link to a missing one; name another."
            )
        if place.exists() and not place.is_dir():
            raise UserError(f"{flag} needs the folder {place}, which is a file; name another.")
    there = next(place for place in (path, *path.parents) if place.exists())
    if not os.access(there, os.W_OK):
        raise UserError(
            f"{flag} {path} may not be written: {there} is write-protected; name another."
        )


def check_new_folder(path: Path, flag: str = "") -> None:
    """UserError if the path exists and is no empty folder, or if the folder cannot be made.

    `flag` is the flag that named the path, if it came from the command line.
    """
    if path.is_dir() and any(path.iterdir()):
        way_out = f"name a new one with {flag}" if flag else "name a new one"
        raise UserError(f"{path} is not an empty folder; {way_out}.")
    check_folder_to_write(path, flag or "saving")


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {plain(str(message))}\n"


def run_command(command: Callable[[], None]) -> None:
    """Call an entry script's `main`. Bad input becomes one line on stderr and exit status 2.

    Errors of the file system end the same way, such as a full disk or a folder without write
    permission, and also a lack of memory or of shared memory. Ctrl-C ends with one line too, and
    with status 130. After another signal, a training that saved itself ends with status 0. If the
    reader of the output has left, as in `| head`, nothing is said. If another command started this
    one, this one ends when the other does. A warning is one line, without its place in the code.
    """
    end_with_starter()
    warnings.formatwarning = _one_line
    try:
        command()
        sys.stdout.flush()
    except UserError as error:
        sys.exit(_report(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_has_left():
            sys.exit(141)  # as shells report a broken pipe
        place = f": {error.filename}" if error.filename else ""
        way_out = _WAYS_OUT.get(error.errno or 0, "check the path")
        sys.exit(_report(UserError(f"{error.strerror or error}{place}; {way_out}.")))
    except (MemoryError, RuntimeError) as error:
        if any(sign in str(error) for sign in _SHARED_MEMORY):
            sys.exit(_report(UserError(_why_not_passed_on(str(error)))))
        if is_lack_of_memory(error):
            sys.exit(_report(UserError(_out_of_memory(str(error)))))
        if str(error).startswith(_LOOP):
            sys.exit(_report(UserError(f"{error}; name another path, or remove that link.")))
        raise
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped.", file=sys.stderr)
        sys.exit(stop.status if isinstance(stop, Stopped) else 130)


def _reader_has_left() -> bool:
    """Whether the reader of standard output is gone. What is left to print is then dropped."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _out_of_memory(text: str) -> str:
    """The message of an allocation that failed, with its size if the library names it."""
    size = re.search(r"allocate ([\d.]+ \w+)", text)
    more = f" for another {size[1]}" if size else ""
    return f"there is not enough memory{more}; take smaller batches or smaller images."


def _why_not_passed_on(text: str) -> str:
    """Why loading processes could not pass their images on, and what to do."""
    for words, limit in _LIMITS.items():
        if words in text:
            return f"{limit} is too low for loading processes; raise it, or pass --num-workers 0."
    size = f", {shutil.disk_usage(_SHARED).total / 1e6:.0f} MB" if _SHARED.is_dir() else ""
    # torch reports every bus error as a lack of shared memory.
    cut = ", or a file was cut while it was read" if "Bus error" in text else ""
    return (
        f"the shared memory (/dev/shm{size}) is too small for the images that loading processes "
        f"pass on{cut}; pass --num-workers 0, or give the container more with --shm-size."
    )


def _report(error: UserError) -> int:
    # A data loader's worker process wraps our message in its traceback, where it is the last line.
    message = re.sub(r"^gatedcir(\.\w+)+: ", "", str(error).strip().split("\n")[-1])
    print(f"error: {plain(message)}", file=sys.stderr)
    return 2
