"""Flags and YAML files -> the dataclasses of options, and back.

A YAML file is read as flags written down, so that both go through the same typed parser, tyro:
nested dataclasses give dotted flags, types are checked, and help comes from the fields' own texts,
none of which argparse does.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml
from tyro._errors import on_parse_error

from gatedcir.config import CONFIG_FILE
from gatedcir.errors import UserError
from gatedcir.refusals import PREFIXED, refuse

Options = TypeVar("Options")


def parse(options: type[Options], argv: Sequence[str] | None, *, description: str) -> Options:
    """Command-line flags to a dataclass.

    `--config FILE` reads options from a YAML file and `--resume RUN` from that run's; flags given
    beside them win.

    Raises:
        UserError: a wrong name or value; the file is missing or not a mapping in YAML.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    sources = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    sources.add_argument("--config", type=Path)
    sources.add_argument("--resume", type=Path)
    found, flags = sources.parse_known_args(given)
    if found.resume is not None:
        _check_resume(found.resume, given)
        flags = [*flags_of(read_yaml(found.resume / CONFIG_FILE)), *flags]
        flags += ["--resume", str(found.resume)]
    if found.config is not None:
        flags = flags_of(read_yaml(found.config)) + flags
    return _parse(
        options,
        flags,
        file=found.config or (found.resume and found.resume / CONFIG_FILE),
        description=description + " Options may also stand in a YAML file: --config FILE.",
    )


def _parse(
    options: type[Options],
    flags: list[str],
    *,
    file: Path | None = None,
    description: str | None = None,
) -> Options:
    """Flags to a dataclass; UserError where tyro refuses them."""
    with on_parse_error(lambda event: refuse(event, options, file)):
        return tyro.cli(options, args=flags, description=description)


def _check_resume(run: Path, given: Sequence[str]) -> None:
    """UserError where there is no run, or beside flags that a run which goes on cannot follow."""
    if not (run / CONFIG_FILE).is_file():
        raise UserError(f"there is no run at {run} to resume; name a run's folder.")
    for flag in ("--config", "--output-dir"):
        if any(word == flag or word.startswith(f"{flag}=") for word in given):
            raise UserError(f"{flag} has no effect beside --resume; leave one of them out.")


def from_dict(options: type[Options], values: dict[str, Any]) -> Options:
    """The dataclass whose resolved form `to_dict` gave; UserError if it has no such options."""
    return _parse(options, flags_of(values))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: no such file, not YAML, or no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"there is no config file {path}; configs/ holds examples.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = "the file" if mark is None else f"line {mark.line + 1}"
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not valid YAML ({reason}); correct {place}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping of option names to values.")
    return content


def flags_of(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested options as command-line flags.

    >>> flags_of({"seed": 1, "save-best": True, "model": {"gated-fusion": {"start": "identity"}}})
    ['--seed', '1', '--save-best', '--model.gated-fusion.start', 'identity']
    """
    return list(_flags(values, prefix))


def _flags(values: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        name = str(key).replace("_", "-")
        if isinstance(value, dict):
            yield from _flags(value, f"{prefix}{name}.")
        elif isinstance(value, bool):
            yield f"--{prefix}{name}" if value else f"--{prefix}no-{name}"
        else:
            yield f"--{prefix}{name}"
            yield from (map(str, value) if isinstance(value, list | tuple) else [str(value)])


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain YAML values with the names of its flags."""
    result: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        name = item.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            nested = to_dict(value)
            # Groups other than `model` have no prefix: their options stand at the top.
            result |= {name: nested} if item.name in PREFIXED else nested
        elif isinstance(value, tuple):
            result[name] = list(value)  # as YAML gives it back
        else:
            result[name] = str(value) if isinstance(value, Path) else value
    return result
