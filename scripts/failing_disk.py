"""Disks that fail at a chosen moment: a small one that fills, and errors of the system's calls.

A small disk is a tmpfs, which only some machines let a user mount. The errors come from a library
of failing_disk.c that processes load before the system's own (LD_PRELOAD, on Linux).
"""

import errno
import os
import shutil
import struct
import subprocess
from pathlib import Path

from gatedcir.errors import UserError

SIZE = 2**28  # bytes of a small disk
ERRORS = {"full": errno.ENOSPC, "EIO": errno.EIO, "read-only": errno.EROFS}
_BALLAST = "ballast"
_SOURCE = Path(__file__).with_suffix(".c")


class FailingDisk:
    """Errors below a folder, in processes that start after this is made, and in their children."""

    def __init__(self, place: Path) -> None:
        """Compile the library into a folder. UserError if there is no compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            raise UserError("a failing disk needs a C compiler; install cc, or leave it out.")
        library, self._control = place / "failing_disk.so", place / "failing_disk"
        words = ["-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE)]
        subprocess.run([compiler, *words], check=True)
        self._control.write_bytes(bytes(2**13))
        os.environ |= {"LD_PRELOAD": str(library), "FAILING_DISK": str(self._control)}

    def fail(self, folder: Path, number: int) -> None:
        """Answer calls below a folder with an error, from now on. 0: with none."""
        with self._control.open("r+b", buffering=0) as control:
            control.seek(4)
            control.write(os.fsencode(folder.resolve()) + b"\0")
            control.seek(0)
            control.write(struct.pack("i", number))


def mount(folder: Path) -> bool:
    """Put a small disk in the place of a folder. False if this is not allowed."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    return (
        shutil.which("mount") is not None
        and not subprocess.run(words, check=False, stderr=subprocess.DEVNULL).returncode
    )


def may_mount(folder: Path) -> bool:
    """Whether small disks may be mounted in a folder."""
    place = folder / "trial"
    place.mkdir()
    try:
        if found := mount(place):
            unmount(place)
        return found
    finally:
        place.rmdir()


def unmount(folder: Path) -> None:
    """Take it away, with all that is on it."""
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no room on a small disk."""
    with (folder / _BALLAST).open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(2**20))
        except OSError:
            os.fsync(ballast.fileno())


def make_room(folder: Path) -> None:
    """Take back what `fill` did."""
    (folder / _BALLAST).unlink(missing_ok=True)
