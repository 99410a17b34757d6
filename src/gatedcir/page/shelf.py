"""The pictures that a page may show: those of the index, and the visitors' own for a while.

A picture is asked for by its id, the first half of a hash. No path comes from a visitor.
"""

import hashlib
import io
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from PIL import Image

from gatedcir.data.pictures import open_image, upright
from gatedcir.errors import UserError, reason_of
from gatedcir.files import stamp
from gatedcir.page.asked import MOST_BYTES, MOST_PIXELS
from gatedcir.search.catalogue import Catalogue, Known

_LENGTH = 16  # letters of an id
_THUMBNAILS = 50_000_000  # bytes that are kept in memory
UPLOADS = 100_000_000
"""The same of uploaded files."""
SIDE = 320
"""Pixels of a thumbnail's longer side."""
Content = TypeVar("Content")


class Kept(Generic[Content]):
    """Values up to a size in all. Those that were used longest ago leave first."""

    def __init__(self, most: int, size: Callable[[Content], int]) -> None:
        self._most, self._size, self._held, self._lock = most, size, 0, Lock()
        self._values: OrderedDict[str, Content] = OrderedDict()

    def get(self, name: str) -> Content | None:
        """A value, if it is still here."""
        with self._lock:
            if name in self._values:
                self._values.move_to_end(name)
            return self._values.get(name)

    def put(self, name: str, value: Content) -> None:
        """Keep a value."""
        with self._lock:
            if (old := self._values.pop(name, None)) is not None:
                self._held -= self._size(old)
            self._values[name] = value
            self._held += self._size(value)
            while self._held > self._most and len(self._values) > 1:
                self._held -= self._size(self._values.popitem(last=False)[1])


def keep(uploads: Kept[bytes], content: bytes) -> str:
    """Keep a visitor's picture for a while. Returns its id.

    Raises:
        UserError: the file is too large, has too many pixels, or is no image.
    """
    if len(content) > MOST_BYTES:
        raise UserError(too_large(len(content)))
    _opened(content)
    picture = hashlib.sha256(content).hexdigest()[:_LENGTH]
    uploads.put(picture, content)
    return picture


def too_large(size: int) -> str:
    """The sentence about a file of too many bytes."""
    return f"the file has {size / 1e6:.1f} MB; give a picture of at most {MOST_BYTES / 1e6:.0f} MB."


class Shelf:
    """The pictures of one catalogue, and uploads, which several shelves may share."""

    def __init__(self, catalogue: Catalogue, uploads: Kept[bytes]) -> None:
        self._catalogue, self._lock, self._version = catalogue, Lock(), -1
        self._places: dict[str, tuple[Path, Known]] = {}
        self._ids: dict[Path, str] = {}
        self._uploads = uploads
        self._thumbnails = Kept[bytes](_THUMBNAILS, len)

    def _read(self) -> None:
        """Look whether the index has changed."""
        with self._lock:
            version = self._catalogue.version()
            if version == self._version:
                return
            digests = {number: name for name, number in self._catalogue.images().items()}
            places: dict[str, tuple[Path, Known]] = {}
            ids = {}
            for path, known in self._catalogue.files().items():
                ids[path] = digests[known.number][:_LENGTH]
                places.setdefault(ids[path], (path, known))
            self._places, self._ids, self._version = places, ids, version

    def id_of(self, path: Path) -> str:
        """The id of a file of the index."""
        self._read()
        return self._ids[path]

    def number_of(self, picture: str) -> int | None:
        """The number of an indexed picture in its index. None of an upload."""
        self._read()
        place = self._places.get(picture)
        return None if place is None else place[1].number

    def holds(self, picture: str) -> bool:
        """Whether the index has a picture."""
        return self.number_of(picture) is not None

    def name_of(self, picture: str) -> str:
        """What to call a picture."""
        self._read()
        return self._places[picture][0].name if picture in self._places else "your picture"

    def some(self, count: int) -> list[str]:
        """Ids of indexed pictures, spread over the index."""
        self._read()
        ids = list(self._places)
        return ids[:: max(1, len(ids) // count)][:count]

    def open(self, picture: str, *, at_least: int | None = None) -> Image.Image:
        """A picture in RGB.

        Raises:
            UserError: there is none, or its file has changed since it was indexed.
        """
        self._read()
        if (place := self._places.get(picture)) is not None:
            path, known = place
            try:
                same = stamp(path) == (known.size, known.modified)
            except OSError:
                same = False
            if not same:
                raise UserError(f"{path.name} has changed since it was indexed; index it again.")
            return open_image(path, at_least=at_least)
        content = self._uploads.get(picture)
        if content is None:
            raise UserError("this picture is not here any more; drop it on the page again.")
        return _opened(content)

    def thumbnail(self, picture: str, side: int = SIDE) -> bytes:
        """A small JPEG of a picture. Raises as `open`."""
        name = f"{picture} {side}"
        if (kept := self._thumbnails.get(name)) is not None:
            return kept
        image = self.open(picture, at_least=side)
        image.thumbnail((side, side))
        content = io.BytesIO()
        image.save(content, "JPEG", quality=85)
        self._thumbnails.put(name, content.getvalue())
        return content.getvalue()


def _opened(content: bytes) -> Image.Image:
    """The picture in the bytes of a file.

    Raises:
        UserError: it is no image, or has too many pixels.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise UserError(
                    f"the picture has {width} x {height} pixels; make it smaller than "
                    f"{MOST_PIXELS / 1e6:.0f} million pixels."
                )
            return upright(image)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(
            f"the picture has too many pixels; make it smaller than {MOST_PIXELS / 1e6:.0f} "
            "million pixels."
        ) from None
    except Exception as error:  # Pillow's decoders raise errors of any kind
        why = reason_of(error).partition(" <_io")[0]  # without an address in memory
        raise UserError(
            f"the file is no picture that can be read ({why}); give a JPEG, PNG or WebP file."
        ) from error
