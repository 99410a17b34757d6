"""Find the image files that cannot be read, and the reasons, in one pass over all of them."""

import json
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from gatedcir.data.left_out import MISSING, count_reasons, shown_with_reasons, write_list
from gatedcir.data.pictures import OtherRangeError
from gatedcir.data.transforms import open_image
from gatedcir.errors import UserError
from gatedcir.files import parse_json, stamp, write_text
from gatedcir.progress import bar

RECORD = "read_images.json"
_START = 1024  # bytes in which the kind of a text file shows


class UnreadableImageError(UserError):
    """An image was asked for whose file cannot be read."""


def why_unreadable(path: Path) -> str | None:
    """Why a file cannot be read as an image, in a few words. None if it can be."""
    found = picture_or_reason(path)
    return found if isinstance(found, str) else None


def picture_or_reason(path: Path) -> Image.Image | str:
    """The picture in a file, in full, or why it cannot be read, in a few words."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a named pipe would wait for ever
            return "folder" if path.is_dir() else "special file"
        if found.st_size == 0:
            return "empty"
        with path.open("rb") as file:
            start = file.read(_START)
        return open_image(path)
    except PermissionError:
        return "not permitted"
    except ValueError:  # half of a character or a zero is in its name
        return MISSING
    except FileNotFoundError:
        return "broken link" if path.is_symlink() else MISSING
    except OSError as error:  # a link to itself, a failing disk
        return error.strerror or "not readable"
    except UserError as error:
        return _why_refused(error.__cause__, start.lstrip())


def _why_refused(error: BaseException | None, start: bytes) -> str:
    """The reason for an error of a decoder, and for the first bytes of the file."""
    match error:
        case UnidentifiedImageError() if b"<svg" in start:
            return "SVG drawing"
        case UnidentifiedImageError():
            return "web page" if re.match(rb"<(?!\?xml)", start) else "no image"
        case OtherRangeError():
            return "numbers of another range"
        case Image.DecompressionBombError() | MemoryError():
            return "too many pixels"
        case NotImplementedError():
            return "unknown form of its format"
        case OSError() if "Ghostscript" in str(error):
            return "PostScript, which needs Ghostscript"
    return "cut short or damaged"


def find_unreadable(
    paths: Collection[Path], *, num_workers: int, folder: Path | None = None, progress: bool = True
) -> dict[Path, str]:
    """Read every file in full, and return those that cannot be read, each with the reason.

    Args:
        paths: the files.
        num_workers: threads that read; at least one does.
        folder: the place to note the readable files, with size and time of each. The next pass
            reads a file again only if these have changed.
        progress: show a bar.
    """
    noted = {} if folder is None else _read_record(folder / RECORD)
    unread = [path for path in paths if not _is_noted(path, noted)]
    found: dict[Path, str] = {}
    with ThreadPool(max(1, num_workers)) as pool:
        reasons = pool.imap(why_unreadable, unread)
        shown = bar(reasons, desc="reading images", total=len(unread), unit="img", show=progress)
        try:
            for path, reason in zip(unread, shown, strict=True):
                if reason is None:
                    noted[str(path.absolute())] = list(stamp(path))
                else:
                    found[path] = reason
        finally:  # the next pass continues where a stopped one was
            if folder is not None and unread:
                _write_record(folder / RECORD, noted)
    return found


def refuse_unreadable(
    paths: Collection[Path], *, num_workers: int, folder: Path | None = None
) -> None:
    """Read every file in full, even if a note says that it is readable.

    Raises:
        UserError: some cannot be read, as `refusal_of` says.
    """
    found = find_unreadable(sorted(paths), num_workers=num_workers)
    if found:
        raise refusal_of(found, len(paths), folder)


def refusal_of(found: Mapping[Path, str], total: int, folder: Path | None = None) -> UserError:
    """The error that counts unreadable files by reason and names the first ten.

    All are written to a list in `folder`, or in the folder for temporary files.
    """
    return UserError(
        f"{len(found)} of {total} images cannot be read "
        f"({count_reasons(found.values())}): {shown_with_reasons(found)}; "
        f"{write_list(found, folder)} lists all of them; replace these files, or "
        "go on without them with --skip-unreadable."
    )


@contextmanager
def all_unreadable_told(
    paths: Collection[Path], *, num_workers: int, folder: Path | None = None
) -> Iterator[None]:
    """After one unreadable image, look for all others and report them together.

    Raises UserError as `refuse_unreadable`.
    """
    try:
        yield
    except UnreadableImageError as error:
        refuse_unreadable(paths, num_workers=num_workers, folder=folder)
        raise UserError(str(error).strip().splitlines()[-1]) from error  # it can be read now


def _read_record(file: Path) -> dict[str, list[int]]:
    """Path -> size and time. Empty if the file is missing or broken."""
    try:
        content = parse_json(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_noted(path: Path, noted: dict[str, list[int]]) -> bool:
    before = noted.get(str(path.absolute()))
    try:
        return before is not None and before == list(stamp(path))
    except OSError:
        return False


def _write_record(file: Path, noted: dict[str, list[int]]) -> None:
    with suppress(OSError):  # in a read-only folder, every pass reads all files
        write_text(file, json.dumps(noted))
