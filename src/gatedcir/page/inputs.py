"""The inputs of the page -> a query, and back; a click -> the visit after it. Without Gradio."""

from dataclasses import replace
from typing import Any, NamedTuple

from gatedcir.errors import UserError
from gatedcir.page.asked import Asked, Visit

MORE_TEXTS = 2
"""Texts besides the first."""
_CHOICES = 30  # values of a field in a list
_FIELDS = 8  # fields that get a filter


class Filters(NamedTuple):
    """The fields that have a list of values, and those that have a range."""

    lists: dict[str, list[Any]]
    ranges: list[str]


def filters_of(fields: dict[str, list[Any]]) -> Filters:
    """A list for a field of few values, and a range for one of many numbers.

    >>> filters_of({"colour": ["red"], "price": list(range(99)), "note": [*map(str, range(99))]})
    Filters(lists={'colour': ['red']}, ranges=['price'])
    """
    some = dict(list(fields.items())[:_FIELDS])
    lists = {field: values for field, values in some.items() if len(values) <= _CHOICES}
    ranges = [
        field
        for field, values in some.items()
        if field not in lists and all(isinstance(value, int | float) for value in values)
    ]
    return Filters(lists, ranges)


def conditions_from(filters: Filters, given: list[Any]) -> dict[str, Any] | None:
    """What the filters' inputs say: chosen values for each list, a text for each range.

    >>> conditions_from(Filters({"colour": ["red"]}, ["price", "year"]), [["red"], "10..", ""])
    {'colour': ['red'], 'price': {'from': 10.0, 'to': None}}

    Raises:
        UserError: a text is no range.
    """
    values: dict[str, Any] = dict(zip(filters.lists, given, strict=False))
    texts = dict(zip(filters.ranges, given[len(filters.lists) :], strict=True))
    values |= {field: _range(field, text) for field, text in texts.items()}
    return {field: wanted for field, wanted in values.items() if wanted} or None


def _range(field: str, text: str | None) -> dict[str, float | None] | None:
    if not (text or "").strip():
        return None
    low, dots, high = str(text).partition("..")
    try:
        ends = [float(end) if end.strip() else None for end in (low, high if dots else low)]
    except ValueError:
        raise UserError(
            f"{field} is {text!r}; write a range such as 10..50, or one number."
        ) from None
    return {"from": ends[0], "to": ends[1]}


def _written(wanted: dict[str, Any] | None) -> str:
    """A range as it is typed.

    >>> _written({"from": 10, "to": None}), _written(None)
    ('10..', '')
    """
    if not wanted:
        return ""
    low, high = wanted.get("from"), wanted.get("to")
    return f"{'' if low is None else f'{low:g}'}..{'' if high is None else f'{high:g}'}"


def inputs_of(asked: Asked, filters: Filters) -> list[Any]:
    """The other way: the values of all inputs that show a query."""
    texts = [*asked.texts, *[("", 1.0)] * (1 + MORE_TEXTS)]
    words = [value for text in texts[1 : 1 + MORE_TEXTS] for value in text]
    where = asked.where or {}
    lists = [where.get(field) or [] for field in filters.lists]
    ends = [_written(where.get(field)) for field in filters.ranges]
    return [texts[0][0], asked.k, asked.alpha, texts[0][1], *words, *lists, *ends]


def asked_from(before: Asked, filters: Filters, given: list[Any]) -> Asked:
    """A query with what the inputs say, from its best result on. Reference and marks stay."""
    text, k, alpha, weight, *rest = given
    count = 2 * MORE_TEXTS
    pairs = [(text, weight), *zip(rest[:count:2], rest[1:count:2], strict=True)]
    return replace(
        before,
        texts=tuple((words, float(w or 0)) for words, w in pairs if words and words.strip()),
        k=int(k),
        start=0,
        alpha=float(alpha),
        where=conditions_from(filters, rest[count:]),
    )


def act(visit: Visit, what: str, which: str) -> Visit:
    """A visit after a click. An unknown one changes nothing."""
    if what == "back":
        return visit.goes_back(int(which) if which.isdecimal() else -1)
    if what == "clear":
        return visit.asks(replace(visit.now, reference=None))
    if what == "reference":
        return visit.asks(replace(visit.now, reference=which))
    if what == "next":
        return visit.goes_on(which)
    if what in ("more", "less"):
        return visit.marks(which, like=what == "more")
    return visit
