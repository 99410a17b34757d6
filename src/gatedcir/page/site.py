"""Everything that the page and its addresses answer, for one or two models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gatedcir.page.asked import Asked
from gatedcir.page.drawing import sheet
from gatedcir.page.engine import Engine, Found, Look
from gatedcir.page.shelf import SIDE, Kept, Shelf, keep

Results = list[tuple[str, list[Found]]]
"""The name of each model, and what it found."""


class Site:
    """One or two engines, and the visitors' pictures."""

    def __init__(self, engines: Sequence[Engine], uploads: Kept[bytes]) -> None:
        self.engines, self._uploads = list(engines), uploads
        paths = [Path(engine.retriever.name) for engine in engines]
        self.names = [str(Path(*path.parts[-2:])) for path in paths]

    def __len__(self) -> int:
        """How many images can be found."""
        return len(self.engines[0].gallery)

    @property
    def has_fusion(self) -> bool:
        """Whether alpha has an effect in any model."""
        return any(engine.has_fusion for engine in self.engines)

    @property
    def judges(self) -> list[str]:
        """What puts the first results of which model into a better order."""
        many = len(self.engines) > 1
        return [
            f"The first {engine.rerank} results of a picture with a text are put in order by "
            f"{engine.judge}{f' in {name}' if many else ''}."
            for name, engine in zip(self.names, self.engines, strict=True)
            if engine.rerank
        ]

    def find(self, asked: Asked, *, shown: int | None = None) -> Results:
        """The results of each model. Raises UserError as `Engine.find`."""
        each = [engine.find(asked, shown=shown) for engine in self.engines]
        return list(zip(self.names, each, strict=True))

    def look(self, asked: Asked) -> list[tuple[str, Look | None]]:
        """What the text does to the reference, in each model. Raises UserError as `find`."""
        each = [engine.look(asked) for engine in self.engines]
        return list(zip(self.names, each, strict=True))

    def upload(self, content: bytes) -> str:
        """Keep a visitor's picture for a while, and give its id. UserError if it is none."""
        return keep(self._uploads, content)

    def thumbnail(self, picture: str, side: int = SIDE) -> bytes:
        """A small JPEG. UserError if the picture is not here."""
        return self._shelf(picture).thumbnail(picture, side)

    def name_of(self, picture: str) -> str:
        """What to call a picture."""
        return self._shelf(picture).name_of(picture)

    def _shelf(self, picture: str) -> Shelf:
        shelves = [engine.shelf for engine in self.engines]
        return next((shelf for shelf in shelves if shelf.holds(picture)), shelves[0])

    def examples(self, count: int) -> list[tuple[str, str]]:
        """Ids and names of some pictures of the index."""
        shelf = self.engines[0].shelf
        return [(picture, shelf.name_of(picture)) for picture in shelf.some(count)]

    def values(self, asked: Asked) -> dict[str, Any]:
        """A query and its results as plain values for JSON. UserError as `find`."""
        found = {name: [one.values() for one in those] for name, those in self.find(asked)}
        return {"query": asked.values(), "link": f"?{asked.link()}", "results": found}

    def sheet(self, asked: Asked) -> bytes:
        """A PNG of a query and its results. UserError as `find`."""
        return sheet(asked, self.find(asked), self.thumbnail)

    def close(self) -> None:
        """Give files and locks back."""
        for engine in self.engines:
            engine.close()
