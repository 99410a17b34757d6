"""One sentence for each mistake in the options, with the nearest way out.

tyro draws a box of several lines. If a required option is missing too, the box names no similar
option. This module looks up each flag and parses its values alone, to find the refused one.
"""

import contextlib
import dataclasses
import difflib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

from gatedcir.errors import UserError
from gatedcir.options.command_line import (
    GENERAL,
    Given,
    Option,
    by_name,
    flag_names,
    options_of,
    switched_off,
)
from gatedcir.options.config import Config

# Names from other programs -> options here. The message names the first that the command has.
SYNONYMS = {
    "lr": ("--learning-rate",),
    "epochs": ("--num-epochs",),
    "max-epochs": ("--num-epochs",),
    "num-train-epochs": ("--num-epochs",),
    "bs": ("--batch-size",),
    "batch": ("--batch-size",),
    "train-batch-size": ("--batch-size",),
    "per-device-train-batch-size": ("--batch-size",),
    "gradient-accumulation-steps": ("--accumulate",),
    "wd": ("--weight-decay",),
    "warmup-ratio": ("--warmup",),
    "clip-grad": ("--max-grad-norm",),
    "workers": ("--num-workers",),
    "fp16": ("--mixed-precision",),
    "bf16": ("--mixed-precision",),
    "fp32": ("--mixed-precision",),
    "amp": ("--mixed-precision",),
    "precision": ("--mixed-precision",),
    "res": ("--image-size",),
    "resolution": ("--image-size",),
    "img-size": ("--image-size",),
    "data": ("--data-path",),
    "data-dir": ("--data-path",),
    "data-root": ("--data-path",),
    "dataset-path": ("--data-path",),
    "dataset-root": ("--data-path",),
    "root": ("--data-path",),
    "model": ("--model-path", "--backbone"),
    "model-name": ("--model-path", "--backbone"),
    "checkpoint": ("--model-path", "--backbone"),
    "ckpt": ("--model-path", "--backbone"),
    "weights": ("--model-path", "--backbone"),
    "pretrained": ("--model-path", "--backbone"),
    "out": ("--output",),
    "output-dir": ("--output",),
    "output-path": ("--output",),
    "save-dir": ("--output",),
    "layers": ("--model.visual-layers",),
    "gpu": ("--device",),
    "gpus": ("--device",),
    "cuda": ("--device",),
    "cpu": ("--device",),
    "max-samples": ("--limit",),
    "subset": ("--limit",),
    "random-seed": ("--seed",),
    "prompt": ("--text",),
    "caption": ("--text",),
    "img": ("--image",),
}
_ALIKE = 0.6  # of 1: less alike, an option is hardly the one that is meant
_FUSION = "--model.gated-fusion.strategy none trains without the fusion, and gated with it"
# Names of things that are done here in another way than by a similar option. A sentence is used if
# the command has the flags that it names.
ADVICE = {
    "use-gated-fusion": _FUSION,
    "gated-fusion": _FUSION,
    "use-gating": _FUSION,
    "gating": _FUSION,
    "use-gate": _FUSION,
}


def refusal(given: Sequence[Given], options: type, file: Path | None) -> UserError | None:
    """Say what is wrong in tyro's place.

    Args:
        given: flags that tyro refused.
        options: the dataclass that it was to fill.
        file: where options were read from, besides the command line.

    Returns:
        None where nothing wrong is found.
    """
    for what, way_out in _faults(given, options):
        source = "" if file is None else f" (options were read from {file} too)"
        return UserError(f"{what}{source}; {way_out}.")
    return None


def check_empty(given: Given, option: Option | None) -> None:
    """UserError if an option needs a value and has none, or has YAML's empty one."""
    if option is None or option.kind is bool:
        return
    if not given.values and option.is_list and option.default == ():
        return  # as a file has it that lists all options
    empty = not "".join(given.values).strip()
    if empty or (given.values == ("None",) and not option.takes_none):
        raise UserError(f"{option.flag} has no value; give {option.usage}.")


def check_names(given: Sequence[Given], options: type, file: Path | None) -> None:
    """UserError if a name is not in its table. tyro would take any word."""
    known = by_name(options)
    for one in given:
        option = known.get(one.flag)
        wrong = option is not None and one.values and option.refuses(one.values[0])
        if wrong and (found := refusal(given, options, file)):
            raise found


def _faults(given: Sequence[Given], options: type) -> Iterator[tuple[str, str]]:
    """What is wrong, and the way out: wrong names first."""
    known = by_name(options)
    for one in given:
        if one.flag and one.flag not in known:
            yield _unknown(one, options)
    for one in given:
        yield from _wrong_value(one, known.get(one.flag))
    there = [known[one.flag] for one in given if one.flag]
    missing = [o.usage for o in options_of(options) if o.required and o not in there]
    if missing:
        verb, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        yield f"{' and '.join(missing)} {verb} missing", f"give {them}"


def _wrong_value(given: Given, option: Option | None) -> Iterator[tuple[str, str]]:
    """What is wrong with the values of a known flag, or with words that have none."""
    if option is not None and option.kind is not bool:
        rest = _left_over(option, given.values)
    else:
        rest = list(given.values)
        if option is not None and rest:
            both = f"{option.flag} or {switched_off(option.flag)}"
            what = f"{given.flag} takes no value such as {rest[0]}"
            yield what, f"write {both} alone, or true or false in YAML"
    if rest is None:
        assert option is not None
        wrong = next((value for value in given.values if _left_over(option, [value]) is None), "it")
        choices = list(map(str, option.choices))
        if option.one_of is not None:
            choices.append(f"a path like {option.one_of.paths}")
        way_out = f"choose {_listed(choices)}" if choices else f"give {option.usage}"
        yield f"{option.flag} cannot be {wrong}", way_out
    for word in rest or ():
        yield f"{word} belongs to no option", "leave it out, or write its option before it"


def quietly(kind: Any, words: Sequence[str], **settings: Any) -> Any:
    """What tyro makes of words, or its SystemExit. tyro prints nothing."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        # Help that nobody sees needs no texts, which tyro would look for in the source.
        settings["config"] = (tyro.conf.HelptextFromCommentsOff,)
        return tyro.cli(kind, args=words, console_outputs=False, **settings)


def _left_over(option: Option, values: Sequence[str]) -> list[str] | None:
    """The values that an option leaves over. None if it refuses them."""
    if values and option.refuses(values[0]):
        return None
    alone = dataclasses.make_dataclass("Alone", [("value", option.kind)])
    try:
        _, rest = quietly(alone, Given("--value", tuple(values)).words, return_unknown_args=True)
    except SystemExit:
        return None
    return list(rest)


def _unknown(given: Given, options: type) -> tuple[str, str]:
    """A flag that is no option, and the option that may be meant."""
    flag, names = given.flag, list(flag_names(options))
    group = [name for name in names if name.startswith(f"{flag}.")]
    if group and given.values in ((), ("None",)):
        inside = _listed([name.removeprefix(f"{flag}.") for name in group], "and")
        return (
            f"{flag.removeprefix('--')} is a group of options and is empty",
            f"give it some of its options {inside}, or leave it out",
        )
    what = f"there is no option {flag}"
    short = flag.removeprefix("--").rpartition(".")[2].removeprefix("no-")
    if (advice := ADVICE.get(short)) and set(_flags_in(advice)) <= set(names):
        return what, advice
    for name, option in by_name(options).items():
        if name in group and set(given.values[:1]) <= set(map(str, option.choices)):
            return f"{flag} is a group of options", f"{name} takes {given.values[0]}"
    for synonym in SYNONYMS.get(short, ()):
        if synonym in names:
            return what, f"{synonym} is the nearest"
    if group:
        return f"{flag} is a group of options", f"give one of them, such as {group[0]}"
    if flag in flag_names(Config):
        return what, "it is an option of training, which this command does not take"
    nearest = _nearest(flag, [*names, *GENERAL])
    return what, f"{nearest} is the nearest" if nearest else "--help-all lists all"


def _flags_in(sentence: str) -> list[str]:
    return [word for word in sentence.replace(",", " ").split() if word.startswith("--")]


def _nearest(flag: str, names: Sequence[str]) -> str | None:
    """The option most like a flag, in whole or without the groups before its own name.

    None where nothing is like it.
    """
    wanted = flag.removeprefix("--")

    def likeness(option: str) -> float:
        name = option.removeprefix("--")
        names = (name, name.rpartition(".")[2])
        return max(difflib.SequenceMatcher(None, wanted, one).ratio() for one in names)

    nearest = max(names, key=likeness)
    return nearest if likeness(nearest) >= _ALIKE else None


def _listed(words: Sequence[str], last: str = "or") -> str:
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))
