"""Arguments of a neck from words: `num_levels=3`, `pool_sizes=1,2,4`."""

import inspect
import typing
from collections.abc import Sequence
from typing import Any

import torch

from gatedcir.models.visual_fusion.necks import NECKS

_WIDTH = 64  # of a neck that is only made to see whether it takes its arguments


def read_neck_args(neck: str, words: Sequence[str]) -> dict[str, Any]:
    """The arguments of a neck, each in the type that its constructor declares.

    A list is written with commas.

    Raises:
        ValueError: the neck has no such argument, or refuses the value.

    >>> read_neck_args("pyramid-pooling", ["pool_sizes=1,2,4"])
    {'pool_sizes': (1, 2, 4)}
    """
    kinds = _kinds(neck)
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.strip().replace("-", "_")
        if name not in kinds or not equals:
            takes = f"takes {' and '.join(f'{one}=' for one in kinds)}" if kinds else "takes none"
            raise ValueError(f"{word} is no argument of the neck {neck}, which {takes}")
        if name in found:
            raise ValueError(f"{name} of the neck {neck} is given twice")
        found[name] = _value(word, value, kinds[name])
    with torch.device("meta"):  # made without memory
        NECKS[neck](width=_WIDTH, **found)
    return found


def _kinds(neck: str) -> dict[str, Any]:
    """The types of a neck's own arguments, by name."""
    make = inspect.getattr_static(NECKS[neck], "__init__")
    kinds = typing.get_type_hints(make)
    return {name: kind for name, kind in kinds.items() if name not in ("width", "return")}


def _value(word: str, value: str, kind: Any) -> Any:
    several = typing.get_origin(kind) is not None
    [one] = typing.get_args(kind) if several else [kind]
    try:
        values = tuple(one(part) for part in value.strip("[]()").split(","))
    except ValueError:
        raise ValueError(f"{word} is not {'numbers' if several else 'a number'}") from None
    if not several and len(values) > 1:
        raise ValueError(f"{word} takes one value")
    return values if several else values[0]
