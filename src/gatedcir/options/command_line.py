"""The flags of a dataclass of options, and the words of a command line split into flags."""

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import tyro

from gatedcir.options.marks import FREE_ON_RESUME, OF_RUN, SELDOM, OneOf, Range

GENERAL = {
    "--config": "FILE",
    "--quiet": "",
    "--help": "",
    "--help-all": "",
}  # of every command: flag -> its value
PREFIXED = ("model", "gated_fusion")  # the only groups that are part of their options' names


@dataclass(frozen=True)
class Option:
    """One field of the options."""

    flag: str
    kind: Any
    """Its type."""
    required: bool
    aliases: tuple[str, ...] = ()
    """Other flags that mean the same."""
    one_of: OneOf | None = None
    """The table that a str is looked up in."""
    free_on_resume: bool = False
    """Whether it may change when a run goes on: it makes no other training."""
    seldom: bool = False
    """Whether --help-all alone shows it."""
    range: Range | None = None
    """The numbers that it may be."""
    of_run: bool = False
    """Whether the model's run says it if no flag names a dataset."""
    default: Any = None
    text: str = ""
    """What it does."""
    path: tuple[str, ...] = ()
    """The fields that lead to it, its own last."""
    annotation: Any = None
    """Its type with its marks, as the field has it."""

    @property
    def group(self) -> str:
        """The field of its outermost group, or "" for a command's own options."""
        return self.path[0] if len(self.path) > 1 else ""

    @property
    def appends(self) -> bool:
        """Whether each repetition of the flag gives one more value."""
        return tyro.conf.UseAppendAction in getattr(self.annotation, "__metadata__", ())

    @property
    def names(self) -> list[str]:
        """All its flags. A switch has two for each, `--save` and `--no-save`."""
        flags = [self.flag, *self.aliases]
        return flags + [switched_off(flag) for flag in flags] * (self.kind is bool)

    @property
    def takes_none(self) -> bool:
        """Whether it may be given as None. An empty value in YAML becomes None."""
        return type(None) in typing.get_args(self.kind)

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return any(typing.get_origin(part) is tuple for part in _parts(self.kind))

    @property
    def holds_commas(self) -> bool:
        """Whether its values are words or paths, in which a comma parts no values."""
        return any(typing.get_args(part)[:1] in ((str,), (Path,)) for part in _parts(self.kind))

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values that it takes, if all of them are listed. Empty if it takes other values."""
        return _choices(self.kind) if self.one_of is None else tuple(self.one_of.names)

    def refuses(self, value: str) -> bool:
        """Whether a value is neither in the table nor a path. tyro takes any word for a str."""
        if self.one_of is None or (self.takes_none and value == "None"):
            return False
        return not self.one_of.takes(value)

    @property
    def usage(self) -> str:
        """The flag with the kind of value that it takes: `--seed INT`."""
        if self.one_of is not None:
            return f"{self.flag} {self.one_of.metavar}"
        return f"{self.flag} {_metavar(self.kind)}".strip()


@dataclass(frozen=True)
class Given:
    """A flag of a command line. The flag "" holds the words before the first flag."""

    flag: str
    values: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """As a command line has it."""
        if len(self.values) == 1 and self.values[0].startswith("--"):
            return [f"{self.flag}={self.values[0]}"]
        return [*filter(None, [self.flag]), *self.values]


def options_of(
    options: type, prefix: str = "", *, path: tuple[str, ...] = (), above: Any = None
) -> Iterator[Option]:
    """Every option of a dataclass, with the defaults that it has in `above`, if that is given.

    >>> @dataclass
    ... class Example:
    ...     batch_size: int
    ...     layers: tuple[int, ...] = (-1,)
    ...     save: float | Literal["no"] | None = None
    >>> for option in options_of(Example):
    ...     print(option.usage, option.required)
    --batch-size INT True
    --layers INT [INT ...] False
    --save FLOAT|{no} False
    """
    kinds, marked = hints(options)
    texts = _texts(options)
    for item in dataclasses.fields(options):
        name, kind = item.name.replace("_", "-"), kinds[item.name]
        default = default_of(item, above)
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            inner = f"{prefix}{name}." if item.name in PREFIXED else prefix
            given = None if default is dataclasses.MISSING else default
            yield from options_of(kind, inner, path=(*path, item.name), above=given)
        else:
            marks = getattr(marked[item.name], "__metadata__", ())
            if tyro.conf.UseAppendAction in marks:
                kind = typing.get_args(kind)[0]  # of the one value that each repetition takes
            aliases = (alias for mark in marks for alias in getattr(mark, "aliases", None) or ())
            shared = (getattr(mark, "help", None) for mark in marks)
            yield Option(
                f"--{prefix}{name}",
                kind,
                required=default in (dataclasses.MISSING, tyro.MISSING),
                aliases=tuple(aliases),
                default=default,
                text=" ".join((texts.get(item.name) or next(filter(None, shared), "")).split()),
                path=(*path, item.name),
                annotation=marked[item.name],
                one_of=next((mark for mark in marks if isinstance(mark, OneOf)), None),
                free_on_resume=FREE_ON_RESUME in marks,
                seldom=SELDOM in marks,
                range=next((mark for mark in marks if isinstance(mark, Range)), None),
                of_run=OF_RUN in marks,
            )


@cache
def hints(options: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """The types of the fields, without and with what marks them."""
    kinds, marked = (typing.get_type_hints(options, include_extras=x) for x in (False, True))
    return kinds, marked


def default_of(item: dataclasses.Field, above: Any) -> Any:
    """What a field has by default: what it has in `above`, unless that is None. Else MISSING."""
    if above is not None:
        return getattr(above, item.name)
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default


@cache
def _texts(options: type) -> dict[str, str]:
    """The text below each field in the source."""
    inherited = {
        name: text
        for kind in options.__bases__
        if dataclasses.is_dataclass(kind)
        for name, text in _texts(kind).items()
    }
    try:
        [found] = ast.parse(textwrap.dedent(inspect.getsource(options))).body
    except (OSError, TypeError):  # made without a source
        return inherited
    assert isinstance(found, ast.ClassDef)
    return inherited | {
        field.target.id: below.value.value
        for field, below in itertools.pairwise(found.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def flag_names(options: type) -> Iterator[str]:
    """Every flag of a dataclass."""
    for option in options_of(options):
        yield from option.names


def by_name(options: type) -> Mapping[str, Option]:
    """The option of every flag."""
    return _by_name(options)


@cache
def _by_name(options: type) -> Mapping[str, Option]:
    found = {name: option for option in options_of(options) for name in option.names}
    return MappingProxyType(found)


def switched_off(flag: str) -> str:
    """The flag that turns a switch off.

    >>> switched_off("--model.save")
    '--model.no-save'
    """
    group, dot, name = flag.removeprefix("--").rpartition(".")
    return f"--{group}{dot}no-{name}"


def split(words: Sequence[str]) -> list[Given]:
    """Words of a command line as flags with their values.

    >>> for given in split(["a", "-k", "3", "--save_best", "--layers", "-1", "-4", "--text=--b"]):
    ...     print(given.words)
    ['a']
    ['--k', '3']
    ['--save-best']
    ['--layers', '-1', '-4']
    ['--text=--b']
    """
    found = [Given("", ())]
    for word in words:
        if re.fullmatch(r"-[a-z]", word):  # a flag of one letter; -1 is a number
            found.append(Given(f"-{word}", ()))
        elif word.startswith("--"):
            flag, equals, value = word.partition("=")
            found.append(Given(flag.replace("_", "-"), (value,) if equals else ()))
        else:
            found[-1] = Given(found[-1].flag, (*found[-1].values, word))
    return found


def normal(given: Given, option: Option | None) -> Given:
    """A flag whose values are written as the parser takes them.

    Lists may have commas and brackets, and listed values any letter case.

    >>> normal(Given("--layers", ("[-1,-4]",)), Option("--layers", tuple[int, ...], False)).values
    ('-1', '-4')
    >>> normal(Given("--data", ("cirr",)), Option("--data", Literal["CIRR"], True)).values
    ('CIRR',)
    """
    if option is None:
        return given
    values = given.values
    if option.is_list and not option.holds_commas:
        values = tuple(part for value in values for part in re.findall(r"[^\s,\[\]()]+", value))
    known = {str(choice).lower(): str(choice) for choice in option.choices}
    return Given(given.flag, tuple(known.get(value.lower(), value) for value in values))


def _parts(kind: Any) -> tuple[Any, ...]:
    """The types of a union, without None. A type that is no union is its own only part."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(part for part in typing.get_args(kind) if part is not type(None))
    return (kind,)


def _choices(kind: Any) -> tuple[Any, ...]:
    parts = _parts(kind)
    if all(typing.get_origin(part) is Literal for part in parts):
        return tuple(choice for part in parts for choice in typing.get_args(part))
    return ()


def _metavar(kind: Any) -> str:
    if kind is bool:
        return ""
    if typing.get_origin(kind) is tuple:
        one = _metavar(typing.get_args(kind)[0])
        return f"{one} [{one} ...]"
    if typing.get_origin(kind) is Literal:
        return f"{{{','.join(map(str, typing.get_args(kind)))}}}"
    parts = _parts(kind)
    if len(parts) > 1 or parts[0] is not kind:
        return "|".join(map(_metavar, parts))
    return str(kind.__name__).upper()
