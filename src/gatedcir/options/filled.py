"""Flags with their values -> the dataclass of options.

tyro looks at every field of what it fills, and training has a hundred. So it is given the flags
alone whose values are not the defaults.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from gatedcir.options.command_line import Given, Option, by_name, default_of, hints, switched_off
from gatedcir.options.refusals import quietly

Options = TypeVar("Options")


def filled(options: type[Options], given: Sequence[Given]) -> Options:
    """The dataclass of what is given, and of defaults.

    Args:
        options: the dataclass.
        given: flags with values as `normal` writes them. The last one wins.

    Raises:
        SystemExit: a flag or a value is wrong, or something is missing.
    """
    known = by_name(options)
    asked: dict[str, list[Given]] = {}
    for one in given:
        option = known.get(one.flag)
        if option is None:
            if one.flag or one.values:
                raise SystemExit(2)
        elif option.appends:
            asked.setdefault(option.flag, []).append(one)
        else:
            asked[option.flag] = [one]
    if any(option.required and option.flag not in asked for option in known.values()):
        raise SystemExit(2)
    found: dict[str, Any] = {}
    for flag, each in list(asked.items()):
        if known[flag].kind is bool:
            _put(found, known[flag], _switch(known[flag], *each))
            del asked[flag]
        elif not known[flag].appends and _words(known[flag].default) == each[0].values:
            del asked[flag]
    for flag, value in zip(
        asked, _values([(known[flag], asked[flag]) for flag in asked]), strict=True
    ):
        _put(found, known[flag], value)
    return _fill(options, found)


def _put(found: dict[str, Any], option: Option, value: object) -> None:
    """Put an option's value where its group is."""
    for name in option.path[:-1]:
        found = found.setdefault(name, {})
    found[option.path[-1]] = value


def _words(value: object) -> tuple[str, ...]:
    """A value as a file of all options has it."""
    return tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)


def _switch(option: Option, given: Given) -> bool:
    if given.values:
        raise SystemExit(2)
    return given.flag not in {switched_off(flag) for flag in (option.flag, *option.aliases)}


def _values(asked: Sequence[tuple[Option, Iterable[Given]]]) -> tuple[Any, ...]:
    """What tyro makes of the values of some options."""
    if not asked:
        return ()
    fields = [(f"value{place}", option.annotation) for place, (option, _) in enumerate(asked)]
    words = [
        word
        for place, (_, each) in enumerate(asked)
        for one in each
        for word in Given(f"--value{place}", one.values).words
    ]
    found = quietly(dataclasses.make_dataclass("Asked", fields), words)
    return tuple(getattr(found, name) for name, _ in fields)


def _fill(options: type, values: Mapping[str, Any], above: Any = None) -> Any:
    """The dataclass of some values, those of a group in a mapping of their own, and of defaults.

    `above` is the default that a group has in the dataclass around it, if it has one.
    """
    kinds, _ = hints(options)
    own = dict(values)
    for item in dataclasses.fields(options):
        kind = kinds[item.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            default = default_of(item, above)
            if default is dataclasses.MISSING:
                own[item.name] = _fill(kind, values.get(item.name, {}))
            elif item.name in values:
                own[item.name] = _fill(kind, values[item.name], default)
    return options(**own) if above is None else dataclasses.replace(above, **own)
