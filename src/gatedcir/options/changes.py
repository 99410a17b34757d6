"""The options in which two runs differ."""

from collections.abc import Iterator
from typing import Any

from gatedcir.options.command_line import by_name
from gatedcir.options.config import Config, DataConfig
from gatedcir.options.parsing import to_dict


def changed_flags(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Flags that would make it another training. Fields with the mark `FREE_ON_RESUME` may change.

    If one of the two lacks an option, its default counts. An option that no longer exists is off.
    """
    before = {_own_name(name, prefix): value for name, value in before.items()}
    for name in dict.fromkeys((*before, *after)):
        default = _DEFAULTS.get(prefix + name, False)
        old, new = before.get(name, default), after.get(name, default)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from changed_flags(old, new, f"{prefix}{name}.")
        elif old != new and prefix + name not in _FREE:
            yield prefix + name


def _own_name(name: str, prefix: str) -> str:
    """The name that an option has now, from any of its names."""
    option = _OPTIONS.get(f"--{prefix}{name}")
    return name if option is None else option.flag.removeprefix(f"--{prefix}")


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


_OPTIONS = by_name(Config)
_FREE = {option.flag.removeprefix("--") for option in _OPTIONS.values() if option.free_on_resume}
_DEFAULTS = dict(_flat(to_dict(Config(DataConfig("CIRR")))))
