"""Conditions on metadata as SQL."""

from typing import Any

from gatedcir.errors import UserError


def sql_of(wanted: Any) -> tuple[str, list[Any]]:
    """SQL for what the value of a field must be.

    >>> sql_of("dress"), sql_of(["red", "blue"])
    (('value = ?', ['dress']), ('value IN (?, ?)', ['red', 'blue']))
    >>> sql_of((10, None))
    ('value >= ? AND typeof(value) <> ?', [10, 'text'])
    """
    if isinstance(wanted, tuple):
        if len(wanted) != 2:
            raise UserError(f"{wanted} is no range; give (low, high), or a list of values.")
        ends = [(f"value {sign} ?", end) for sign, end in zip((">=", "<="), wanted, strict=True)]
        given = [(test, end) for test, end in ends if end is not None]
        if any(not isinstance(end, str) for _, end in given):  # to SQLite, all texts are greater
            given.append(("typeof(value) <> ?", "text"))
        return " AND ".join(test for test, _ in given) or "1", [end for _, end in given]
    if isinstance(wanted, list | set | frozenset):
        return f"value IN ({', '.join('?' * len(wanted))})", list(wanted)
    return "value = ?", [wanted]
