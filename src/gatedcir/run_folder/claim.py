"""A folder that one process at a time may write. The claim ends with its process."""

from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from gatedcir.errors import UserError

LOCK = ".lock"


class Claim:
    """The right to write a folder, which is made if it is not there.

    The operating system holds the lock, so that a killed process does not hold it. The file of the
    lock stays behind then, and tells that the process was killed.

    Raises:
        UserError: another process holds it.
    """

    def __init__(self, folder: Path, flag: str = "--output") -> None:
        self.folder = folder
        self._made = [place for place in (folder, *folder.parents) if not place.exists()]
        self.was_left = (folder / LOCK).exists()
        """Whether a process that had the folder before did not end by itself."""
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{folder} is in use by another process; wait until it ends, or name another "
                f"folder with {flag}."
            ) from None

    def release(self, *, leave: bool = False) -> None:
        """Give the folder back. Folders made for the claim go if nothing was written to them.

        Args:
            leave: the lock's file, as a killed process does.
        """
        if not leave:
            with suppress(OSError):  # Windows removes it when it is closed
                (self.folder / LOCK).unlink()  # before the release, or two might hold two files
        self._lock.release()
        with suppress(OSError):  # the first one that is not empty
            for place in self._made:
                place.rmdir()


def in_use(folder: Path) -> bool:
    """Whether a process holds the claim of a folder."""
    if not (folder / LOCK).exists():
        return False
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
