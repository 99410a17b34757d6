"""What a visitor asks for: one value that is also a link, and the rounds before it."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlencode

from gatedcir.errors import UserError

MOST_BYTES = 10_000_000
"""Of an uploaded file."""
MOST_PIXELS = 40_000_000
"""Of an uploaded picture."""
MOST_LETTERS = 1000
"""Of all texts together."""
MOST_RESULTS = 240
"""Of one answer. The next ones come when they are asked for."""
MOST_ALPHA = 3.0
_MOST_MARKS, _MOST_TEXTS, _MOST_ROUNDS = 20, 5, 20
_MOST_CONDITIONS = 4000  # letters of the conditions in a link
_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Asked:
    """One query."""

    reference: str | None = None
    """The id of a picture."""
    texts: tuple[tuple[str, float], ...] = ()
    """Texts with their weights."""
    alpha: float = 1.0
    """The factor of the change that the fusion makes. 0: the text does not touch the image."""
    k: int = 12
    more: tuple[str, ...] = ()
    """Ids of pictures that the results should be like."""
    less: tuple[str, ...] = ()
    """Ids of pictures that they should not be like."""
    where: Mapping[str, Any] | None = None
    """Field -> a list of values, or {"from": low, "to": high}."""
    start: int = 0
    """How many of the best pictures to leave out. A page leaves out those of the pages before."""

    def __post_init__(self) -> None:
        ids = [*self.more, *self.less, *([self.reference] if self.reference else [])]
        for one in ids:
            if not isinstance(one, str) or not _ID.fullmatch(one):
                raise UserError(f"{str(one)[:40]!r} is no id of a picture; take one of a result.")
        if len(ids) > _MOST_MARKS + 1:
            raise UserError(f"there are {len(ids) - 1} marks; take back some above {_MOST_MARKS}.")
        letters = sum(len(text) for text, _ in self.texts)
        if letters > MOST_LETTERS or len(self.texts) > _MOST_TEXTS:
            raise UserError(
                f"the text has {letters} letters in {len(self.texts)} parts; shorten it to "
                f"{MOST_LETTERS} in {_MOST_TEXTS}."
            )
        if not all(math.isfinite(weight) and abs(weight) <= 10 for _, weight in self.texts):
            raise UserError("a weight of a text is no number from -10 to 10; give one.")
        if not 0 <= self.alpha <= MOST_ALPHA:
            raise UserError(f"alpha is {self.alpha}; give a number from 0 to {MOST_ALPHA:g}.")
        if not 1 <= self.k <= MOST_RESULTS:
            raise UserError(f"k is {self.k}; ask for 1 to {MOST_RESULTS} images.")
        if self.start < 0:
            raise UserError(f"start is {self.start}; give 0, or the number of images before.")

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to search for."""
        return not self.reference and not self.texts and not self.more

    def conditions(self) -> dict[str, Any] | None:
        """The conditions as a gallery takes them.

        >>> Asked(where={"size": [36], "price": {"from": 1, "to": None}}).conditions()
        {'size': [36], 'price': (1, None)}
        """
        if not self.where:
            return None
        return {
            field: (wanted.get("from"), wanted.get("to")) if isinstance(wanted, dict) else wanted
            for field, wanted in self.where.items()
        }

    def link(self) -> str:
        """The part of a link behind the question mark. Defaults are left out.

        >>> Asked(texts=(("make it red", 1.0),), k=5).link()
        'text=make+it+red&k=5'
        """
        pairs: list[tuple[str, str]] = [("ref", self.reference)] if self.reference else []
        for text, weight in self.texts:
            pairs.append(("text", text if weight == 1 else f"{weight:g}*{text}"))
        if self.alpha != 1:
            pairs.append(("alpha", f"{self.alpha:g}"))
        if self.k != Asked.k:
            pairs.append(("k", str(self.k)))
        if self.start:
            pairs.append(("start", str(self.start)))
        pairs += [("more", one) for one in self.more] + [("less", one) for one in self.less]
        if self.where:
            pairs.append(("where", json.dumps(self.where, separators=(",", ":"))))
        return urlencode(pairs)

    def values(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return json.loads(json.dumps(asdict(self)))


def from_link(pairs: list[tuple[str, str]]) -> Asked:
    """The query of a link, from its names and values. Other names are left alone.

    >>> from_link([("text", "make it red"), ("text", "-0.5*with stripes"), ("x", "y")]).texts
    (('make it red', 1.0), ('with stripes', -0.5))

    Raises:
        UserError: a value is none of its kind.
    """
    of = {name: [value for one, value in pairs if one == name] for name, _ in pairs}
    where = _conditions(of["where"][0]) if of.get("where") else None
    return Asked(
        reference=of.get("ref", [""])[0] or None,
        texts=tuple(_text(text) for text in of.get("text", ()) if text.strip()),
        alpha=_number("alpha", of.get("alpha", ["1"])[0]),
        k=int(_number("k", of.get("k", [str(Asked.k)])[0])),
        start=int(_number("start", of.get("start", ["0"])[0])),
        more=tuple(of.get("more", ())),
        less=tuple(of.get("less", ())),
        where=where,
    )


def _text(written: str) -> tuple[str, float]:
    found = re.fullmatch(r"(-?\d{1,3}(?:\.\d{1,6})?)\*(.*)", written, re.DOTALL)
    return (found[2], float(found[1])) if found else (written, 1.0)


def _number(name: str, written: str) -> float:
    try:
        value = float(written[:20])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{name} is {written[:20]!r}, which is no number; give one.")
    return value


def _conditions(written: str) -> dict[str, Any]:
    """Conditions from JSON.

    Raises:
        UserError: it is too long, or no such JSON.
    """
    plain = (str, int, float, bool)
    try:
        found = json.loads(written) if len(written) <= _MOST_CONDITIONS else None
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and all(
        (isinstance(wanted, list) and all(isinstance(one, plain) for one in wanted))
        or (
            isinstance(wanted, dict)
            and wanted.keys() <= {"from", "to"}
            and all(one is None or type(one) in (int, float) for one in wanted.values())
        )
        for wanted in found.values()
    ):
        return found
    raise UserError(
        'the conditions are not readable; write them like {"colour": ["red"], "price": {"from": 1}}'
    )


@dataclass(frozen=True)
class Visit:
    """The query of now, the rounds before it, and how many results are shown at once."""

    now: Asked = Asked()
    before: tuple[Asked, ...] = ()
    shown: int = Asked.k

    def asks(self, asked: Asked) -> "Visit":
        """The same round with another query."""
        return replace(self, now=asked, shown=asked.k)

    def goes_on(self, picture: str) -> "Visit":
        """The next round, which starts at a picture. Filters and numbers stay, the text does not.

        >>> first = Visit(Asked(texts=(("red", 1.0),), k=5), shown=10)
        >>> second = first.goes_on("0123456789abcdef")
        >>> second.now.reference, second.now.texts, second.now.k
        ('0123456789abcdef', (), 5)
        >>> [asked.texts for asked in second.before], second.shown
        ([(('red', 1.0),)], 5)
        """
        now = replace(self.now, reference=picture, texts=(), more=(), less=())
        return Visit(now, (*self.before, self.now)[-_MOST_ROUNDS:], now.k)

    def goes_back(self, place: int) -> "Visit":
        """An earlier round. The later ones are forgotten. Of a place that is not there, itself."""
        if not 0 <= place < len(self.before):
            return self
        now = self.before[place]
        return Visit(now, self.before[:place], now.k)

    def marks(self, picture: str, *, like: bool) -> "Visit":
        """A mark at a picture, or without the mark that it has already."""
        old, other = (self.now.more, self.now.less) if like else (self.now.less, self.now.more)
        new = tuple(one for one in old if one != picture) if picture in old else (*old, picture)
        rest = tuple(one for one in other if one != picture)
        more, less = (new, rest) if like else (rest, new)
        return replace(self, now=replace(self.now, more=more, less=less))
