"""What the parser of options refuses, as one sentence that names the nearest way out.

tyro draws a box of several lines, which names no near option when a required one is missing too.
Its hook for that is not part of its stable interface: the dependency names one version.
"""

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tyro import _errors as tyro_errors

from gatedcir.errors import UserError

Refused = tyro_errors.ParseErrorEvent
PREFIXED = ("model", "gated_fusion")  # groups that stand in their options' names; others do not
_SOURCES = ("--config", "--resume")  # read before tyro


def refuse(event: Refused, options: type, file: Path | None) -> None:
    """Say what is wrong in tyro's place.

    Args:
        event: what it found.
        options: the dataclass it was to fill.
        file: where options were read from beside the command line.

    Raises:
        UserError: always, but for kinds of refusal that these dataclasses cannot meet.
    """
    found = _sentence(event, options)
    if found is not None:
        what, way_out = found
        source = "" if file is None else f" (options were read from {file} too)"
        raise UserError(f"{what}{source}; {way_out}.") from None


def _sentence(event: Refused, options: type) -> tuple[str, str] | None:
    """What is wrong, and the way out."""
    match event:
        case tyro_errors.UnrecognizedArgs(tokens=[first, *_]):
            return _unknown(first, options)
        case tyro_errors.MissingArgs(unrecognized_tokens=[first, *_]):
            return _unknown(first, options)
        case tyro_errors.MissingArgs(missing_arguments=missing):
            wanted = " and ".join(_usage(found.arg) for found in missing)
            return "something is missing", f"give {wanted}"
        case tyro_errors.InvalidChoice(argument=argument, value=value, choices=choices):
            return f"{argument.display_name()} cannot be {value}", f"choose {_listed(choices)}"
        case tyro_errors.BadValue(argument=argument):
            return f"{argument.display_name()} has no value", f"give {_usage(argument)}"
        case tyro_errors.InstantiationFailure(argument=argument, message=message) if argument:
            # The message is about Python's types; the value stands in it, between quotes.
            quoted = re.search(r"'([^']*)'", message)
            given = quoted.group(1) if quoted else "what it was given"
            return f"{argument.display_name()} cannot be {given}", f"give {_usage(argument)}"
    return None


def _unknown(token: str, options: type) -> tuple[str, str]:
    """A word that belongs to no option."""
    flag = token.partition("=")[0]
    if not flag.startswith("--"):
        return f"{token} belongs to no option", "leave it out, or write its option before it"
    return f"there is no option {flag}", f"{_nearest(flag, options)} is the nearest"


def _nearest(flag: str, options: type) -> str:
    """The option most like a flag, in whole or without the groups before its own name."""

    def likeness(option: str) -> float:
        short = f"--{option.rpartition('.')[2].removeprefix('--')}"
        return max(difflib.SequenceMatcher(None, flag, x).ratio() for x in (option, short))

    return max([*flag_names(options), *_SOURCES], key=likeness)


def flag_names(options: type, prefix: str = "") -> Iterator[str]:
    """Every flag of a dataclass.

    >>> @dataclasses.dataclass
    ... class Example:
    ...     batch_size: int = 1
    ...     save: bool = False
    >>> list(flag_names(Example))
    ['--batch-size', '--save', '--no-save']
    """
    kinds = typing.get_type_hints(options)
    for item in dataclasses.fields(options):
        name, kind = item.name.replace("_", "-"), kinds[item.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from flag_names(kind, f"{prefix}{name}." if item.name in PREFIXED else prefix)
        else:
            yield f"--{prefix}{name}"
            if kind is bool:
                yield f"--{prefix}no-{name}"


def _usage(argument: Any) -> str:  # a tyro ArgumentDefinition
    """A flag with the kind of value it takes: `--seed INT`."""
    kind = (argument.lowered.metavar or "").removeprefix("{None}|")
    return " ".join(filter(None, (argument.display_name(), kind)))


def _listed(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
