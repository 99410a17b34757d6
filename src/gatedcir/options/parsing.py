"""Flags and YAML files -> the dataclasses of options, and back.

The options of a YAML file are turned into flags, so that both go through the same typed parser,
tyro. It makes dotted flags of nested dataclasses, checks types, and takes help from the fields' own
texts. argparse does none of this. Only tyro's public interface is used.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from gatedcir.errors import UserError
from gatedcir.files import CONFIG_FILE
from gatedcir.options.command_line import (
    GENERAL,
    PREFIXED,
    Given,
    Option,
    by_name,
    normal,
    options_of,
    split,
)
from gatedcir.options.filled import filled
from gatedcir.options.help import help_of
from gatedcir.options.paths import expand, expand_all
from gatedcir.options.refusals import check_empty, check_names, refusal
from gatedcir.progress import hide_bars
from gatedcir.run_folder.claim import check_free

Options = TypeVar("Options")


def parse(
    options: type[Options],
    argv: Sequence[str] | None,
    *,
    description: str,
    below: dict[str, Any] | None = None,
) -> Options:
    """Command-line flags to a dataclass.

    `--config FILE` reads options from a YAML file, and `--resume RUN` from that run's file. Flags
    given next to them win. Paths are expanded: see `expand_all`. `--help` prints the options, and
    `--quiet` hides the progress bars.

    Args:
        options: the dataclass.
        argv: the command line, or None for that of this process.
        description: what the command does, for its help.
        below: options as in a file. Options of the file and of the flags win over them.

    Raises:
        UserError: a wrong name or value; the file is missing or not a mapping in YAML; a path
            needs an environment variable that is not set.
    """
    words = sys.argv[1:] if argv is None else argv
    if asked := {"-h", "--help", "--help-all"} & set(words):
        print(help_of(options, description, everything="--help-all" in asked))
        sys.exit(0)
    given = split(words)
    file, given = _take(given, "--config")
    flags = [word for one in given for word in one.words]
    resumes = "--resume" in by_name(options)
    run, others = _take(given, "--resume") if resumes else (None, given)
    if run is not None:
        _check_resume(run, {one.flag for one in given} | ({"--config"} if file else set()))
        file = run / CONFIG_FILE
        flags = [*(w for one in others for w in one.words), "--resume", str(run)]
    if file is not None:
        known = by_name(options)
        found = flags_of(read_yaml(file), known=known)
        _check_file_flags(found, known, file, of_run=run is not None)
        flags = found + flags
    flags = [*flags_of(below or {}), *flags]
    if "--quiet" in flags:
        hide_bars()
    flags = [word for word in flags if word != "--quiet"]
    return expand_all(_parse(options, flags, file=file))


def is_given(flag: str, argv: Sequence[str] | None) -> bool:
    """Whether a command line itself has a flag, also if with the default."""
    return any(one.flag == flag for one in split(sys.argv[1:] if argv is None else argv))


def _take(given: Sequence[Given], flag: str) -> tuple[Path | None, list[Given]]:
    """The path that a flag gives, and the other flags."""
    found, others = None, []
    for one in given:
        if one.flag != flag:
            others.append(one)
            continue
        if not "".join(one.values).strip():
            raise UserError(f"{flag} has no value; give {flag} PATH.")
        for word in one.values[1:]:
            raise UserError(f"{word} belongs to no option; leave it out.")
        found = Path(expand(one.values[0]))
    return found, others


def _parse(options: type[Options], words: Sequence[str], *, file: Path | None = None) -> Options:
    """Flags to a dataclass. UserError if tyro refuses them."""
    known = by_name(options)
    given = [normal(one, known.get(one.flag)) for one in split(words)]
    for one in given:
        check_empty(one, known.get(one.flag))
    words = [word for one in given for word in one.words]
    try:
        found = filled(options, given)
        check_names(given, options, file)
        check_numbers(found)
        return found
    except SystemExit as end:
        if end.code:
            error = refusal(given, options, file)
            if error is not None:
                raise error from None
    return tyro.cli(options, args=words)  # a refusal that has no sentence here, in tyro's words


def check_numbers(options: Any) -> None:
    """UserError if a number of a dataclass of options is outside of the range of its field."""
    for option in options_of(type(options), above=options):
        allowed = option.range
        for number in several(option.default):
            if allowed is not None and number is not None and not allowed.holds(number):
                raise UserError(f"{option.flag} {number} is out of range; give a number {allowed}.")


def several(value: Any) -> tuple[Any, ...]:
    """The values of an option that takes one or several."""
    return value if isinstance(value, tuple) else (value,)


def _check_resume(run: Path, flags: set[str]) -> None:
    """UserError if there is no run, or if flags would make a resumed run another training."""
    if not (run / CONFIG_FILE).is_file():
        check_free(run, "--output")
        raise UserError(f"there is no run at {run} to resume; name a run's folder.")
    for flag in ("--config", "--output", "--output-dir"):
        if flag in flags:
            raise UserError(f"{flag} has no effect together with --resume; leave one of them out.")


def _check_file_flags(
    words: Sequence[str], known: Mapping[str, Option], file: Path, *, of_run: bool
) -> None:
    """UserError if a file holds flags of the command line, or a run's file unknown options."""
    for flag in (one.flag for one in split(words)):
        name = flag.removeprefix("--")
        if flag in GENERAL and flag != "--quiet":
            raise UserError(f"{file} holds {name}; give {flag} on the command line instead.")
        if of_run and flag and flag not in known:
            raise UserError(unknown_in_run(file.parent, name))


def unknown_in_run(run: Path, name: str) -> str:
    """The message for an option of a run that this version does not have."""
    return (
        f"{run} was trained with the option {name}, which this version does not know; resume it "
        "with the version that wrote it, or start a new run."
    )


def from_dict(options: type[Options], values: dict[str, Any]) -> Options:
    """The dataclass from what `to_dict` made of it. UserError if it has no such options."""
    return _parse(options, flags_of(values, known=by_name(options)))


def read_yaml(path: Path, *, examples: str = "configs/") -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        path: the file.
        examples: where such files are.

    Raises:
        UserError: no such file, not YAML, or no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_OnceLoader)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"there is no config file {path}; the project's repository has examples in {examples}."
        ) from None
    except OSError as error:
        raise UserError(
            f"the config file {path} cannot be read ({error.strerror}); name a file that can."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = "the file" if mark is None else f"line {mark.line + 1}"
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not valid YAML ({reason}); correct {place}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping of option names to values.")
    try:
        json.dumps(content, default=str, skipkeys=True)
    except (ValueError, RecursionError):
        raise UserError(f"{path} holds a value that contains itself; write it out.") from None
    return content


class _OnceLoader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that stands twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the base class, which would take the last one of equal keys."""
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        seen: set[str] = set()
        for key in keys:
            if key.value in seen:
                problem = f"the key {key.value} stands there twice"
                raise yaml.constructor.ConstructorError(
                    problem=problem, problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def flags_of(
    values: dict[str, Any], prefix: str = "", *, known: Mapping[str, Option] | None = None
) -> list[str]:
    """Nested options as command-line flags.

    A truth value turns a switch on or off. For an option that is known to be no switch, it is a
    value as any other.

    >>> flags_of({"seed": 1, "save-best": True, "model": {"gated-fusion": {"start": "identity"}}})
    ['--seed', '1', '--save-best', '--model.gated-fusion.start', 'identity']
    """
    return list(_flags(values, prefix, known or {}))


def _flags(values: dict[str, Any], prefix: str, known: Mapping[str, Option]) -> Iterator[str]:
    for key, value in values.items():
        name = str(key).replace("_", "-")
        if isinstance(value, dict):
            yield from _flags(value, f"{prefix}{name}.", known)
        elif isinstance(value, bool) and _may_be_switch(known.get(f"--{prefix}{name}")):
            yield f"--{prefix}{name}" if value else f"--{prefix}no-{name}"
        else:
            yield f"--{prefix}{name}"
            yield from (map(str, value) if isinstance(value, list | tuple) else [str(value)])


def _may_be_switch(option: Option | None) -> bool:
    return option is None or option.kind is bool


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain YAML values with the names of its flags."""
    result: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        name = item.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            nested = to_dict(value)
            # Only `model` has a prefix. The options of other groups are at the top level.
            result |= {name: nested} if item.name in PREFIXED else nested
        elif isinstance(value, tuple):
            # As YAML gives it back.
            result[name] = [str(one) if isinstance(one, Path) else one for one in value]
        else:
            result[name] = str(value) if isinstance(value, Path) else value
    return result
