"""`~` and environment variables in options that are paths, in flags and in YAML files."""

import dataclasses
import os
import re
import typing
from pathlib import Path
from typing import Any, TypeVar

from gatedcir.errors import UserError
from gatedcir.options.marks import MAY_BE_PATH

Options = TypeVar("Options")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")


def expand(path: str) -> str:
    """A path in which `~` and the names of variables are replaced by their values.

    Raises:
        UserError: a variable is not set, there is no home folder, or no file can have this name.
    """
    if not _is_name(path):
        raise UserError(f"{path!r} has letters that no file's name can have; name another path.")
    if "$" in path and not Path(path).exists():  # else it is a name that has a $ in it
        for bare, braced in _VARIABLE.findall(path):
            if (name := bare or braced) not in os.environ:
                raise UserError(
                    f"{path} needs the environment variable {name}, which is not set; set it, or "
                    "write the path in full."
                )
        path = os.path.expandvars(path)
    found = os.path.expanduser(path)  # noqa: PTH111 (a user without a home is no error to it)
    if re.match(r"~(/|$)", found):
        raise UserError(f"{path} needs a home folder, and HOME is not set; write the path in full.")
    return found


def expand_all(options: Options) -> Options:
    """A dataclass of options with all its paths expanded: see `expand`."""
    kinds = typing.get_type_hints(type(options), include_extras=True)
    changes: dict[str, Any] = {}
    for item in dataclasses.fields(options):  # type: ignore[arg-type]
        value = getattr(options, item.name)
        changes[item.name] = _expanded(
            value, MAY_BE_PATH in getattr(kinds[item.name], "__metadata__", ())
        )
    return dataclasses.replace(options, **changes)  # type: ignore[type-var]


def _expanded(value: Any, may_be_path: bool) -> Any:
    if dataclasses.is_dataclass(value):
        return expand_all(value)
    if isinstance(value, tuple):
        return tuple(_expanded(one, may_be_path) for one in value)
    if isinstance(value, Path):
        return Path(expand(str(value)))
    return expand(value) if may_be_path and isinstance(value, str) else value


def _is_name(path: str) -> bool:
    """Whether the system takes a text as a path."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False
