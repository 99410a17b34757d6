"""The claim of a folder: only one process at a time may write it. It ends with its process."""

from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from gatedcir.errors import UserError

LOCK = ".lock"


class Claim:
    """The right to write a folder. The folder is made if it is missing.

    The operating system holds the lock and releases it if the process is killed. The lock's file
    then stays behind and shows that the process was killed.

    Raises:
        UserError: another process holds it.
    """

    def __init__(self, folder: Path, flag: str = "--output") -> None:
        self.folder = folder
        self._made = [place for place in (folder, *folder.parents) if not place.exists()]
        self.was_left = (folder / LOCK).exists()
        """Whether an earlier process had the folder and did not give it back."""
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise _is_in_use(folder, flag) from None

    def release(self, *, leave: bool = False) -> None:
        """Give the folder back. Folders made for the claim are removed if they are empty.

        Args:
            leave: keep the lock's file, as a killed process does.
        """
        if not leave:
            with suppress(OSError):  # Windows removes it when it is closed
                (self.folder / LOCK).unlink()  # before the release, or two could hold two files
        self._lock.release()
        with suppress(OSError):  # the first one that is not empty
            for place in self._made:
                place.rmdir()


def check_free(folder: Path, flag: str) -> None:
    """UserError if a process holds the claim of a folder."""
    if in_use(folder):
        raise _is_in_use(folder, flag)


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


def _is_in_use(folder: Path, flag: str) -> UserError:
    return UserError(
        f"{folder} is in use by another process; wait until it ends, or name another folder with "
        f"{flag}."
    )
