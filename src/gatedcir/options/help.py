"""The text of --help and --help-all: the options of a command, by groups, common ones first."""

import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gatedcir.options.command_line import GENERAL, Option, options_of, switched_off

TITLES = {  # a group's field in the options -> its title. Groups with one title go together.
    "": "options",
    "data": "data",
    "transform": "data",
    "backbone": "weights",
    "model": "model",
    "loss": "losses",
    "optim": "optimiser",
    "recipe": "recipes",
    "run": "run",
}
_TEXTS = {
    "--config": "Read options from a YAML file. If a flag is given too, the flag counts.",
    "--quiet": "Show no progress bars.",
    "--help": "List the common options.",
    "--help-all": "List all options.",
}
_NOTE = "In paths, ~ is the home folder, and $NAME or ${NAME} an environment variable."
_WIDTH = 100


def help_of(options: type, description: str, *, everything: bool) -> str:
    """The help of a command with these options. Without `everything`, only the common ones."""
    groups: dict[str, list[Option]] = {}
    nested = {option.group for option in options_of(options)} - {""}
    for option in options_of(options):
        title = TITLES.get(option.group, "options")
        groups.setdefault(title if nested else "options", []).append(option)
    lines, hidden = [f"usage: {_program()} [OPTIONS]", "", *_wrapped(f"{description} {_NOTE}")], 0
    for title in dict.fromkeys((*TITLES.values(), *groups)):
        found = sorted(groups.get(title, []), key=lambda one: (one.seldom, not one.required))
        shown = [one for one in found if everything or not one.seldom]
        hidden += len(found) - len(shown)
        if shown:
            lines += ["", f"{title}:"]
            for option in shown:
                lines += _entry(_head(option), _text(option))
    lines += ["", "every command:"]
    for flag, value in GENERAL.items():
        text = _TEXTS[flag] + f" {hidden} rarely used ones are not shown here." * (
            flag == "--help-all" and hidden > 0
        )
        lines += _entry(f"{flag} {value}".strip(), text)
    return "\n".join(lines)


def _program() -> str:
    """The command as it was typed: `gatedcir train`, or a script's name."""
    first, *words = sys.argv
    name = Path(first).name
    return " ".join([name, *words[:1]]) if name == "gatedcir" else name


def _head(option: Option) -> str:
    return f"{option.flag}, {switched_off(option.flag)}" if option.kind is bool else option.usage


def _text(option: Option) -> str:
    """What an option does, its default and its other names."""
    text = option.text
    if option.required:
        text += " (required)"
    elif option.default is not None:
        run = "as the run has it, or for a named dataset: " * option.of_run
        text += f" (default: {run}{_written(option.default)})"
    if option.aliases:
        text += f" Also {', '.join(option.aliases)}."
    return text.strip()


def _written(value: Any) -> str:
    """A default as the flag takes it.

    >>> _written((-1, -4)), _written(True), _written(1e-5)
    ('-1 -4', 'on', '1e-05')
    """
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _entry(head: str, text: str) -> Iterator[str]:
    yield f"  {head}"
    yield from _wrapped(text, indent=" " * 6)


def _wrapped(text: str, indent: str = "") -> list[str]:
    width = min(_WIDTH, shutil.get_terminal_size().columns)
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
