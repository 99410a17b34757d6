"""A grid file -> its cells, each with its config."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gatedcir.benchmarks.registry import benchmark
from gatedcir.errors import UserError
from gatedcir.options.checks import check_ranges
from gatedcir.options.command_line import by_name
from gatedcir.options.config import Config, DataConfig
from gatedcir.options.parsing import from_dict, read_yaml, to_dict
from gatedcir.options.paths import expand_all

# Cells can only be compared on one dataset with one protocol. Other options are set for each run.
FIXED = (
    *("dataset", "data-path", "fashioniq-protocol", "fashioniq-categories", "gallery", "limit"),
    *("seed", "output", "output-dir", "resume", "dry-run"),
)


@dataclass(frozen=True)
class Cell:
    """One entry of a grid."""

    name: str
    overrides: dict[str, Any]
    """Its own options, nested as in a config file."""
    config: Config
    """All options: the shared ones, replaced by the overrides where these differ."""
    seeds: int
    """The number of seeds that it is run with."""


@dataclass(frozen=True)
class Grid:
    """The cells, and the one that the others are compared with."""

    shared: Config
    baseline: str
    cells: list[Cell]


def read_grid(path: Path, shared: Config, *, seeds: int) -> Grid:
    """The grid in a YAML file, all options of all cells checked.

    The file holds `baseline: NAME` and `cells: {NAME: {options as in a config file}}`. With
    `seeds: N`, a cell asks for fewer seeds than the `seeds` of the others.

    Raises:
        UserError: the file is no grid; an option is unknown, has a wrong value or may not differ
            between cells; two cells with the same options.
    """
    benchmark(shared.data.dataset)
    content = read_yaml(path, examples="configs/ablations/")
    for key in content.keys() - {"baseline", "cells"}:
        raise UserError(f"{path} has the key {key}; a grid holds only baseline and cells.")
    entries, baseline = content.get("cells"), content.get("baseline")
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"{path} has no cells; give cells: {{name: {{options}}}}.")
    if not isinstance(baseline, str) or baseline not in entries:
        raise UserError(f"{path} needs baseline: with the name of one of its cells.")
    cells: list[Cell] = []
    for name, options in entries.items():
        cell = _cell(name, options, shared, seeds, f"cell {name} of {path}")
        for other in cells:
            if other.config == cell.config:
                raise UserError(
                    f"cells {other.name} and {name} of {path} have the same options; leave one out."
                )
        cells.append(cell)
    return Grid(shared, baseline, cells)


def some_cells(grid: Grid, names: Sequence[str]) -> Grid:
    """The grid with its baseline and the named cells only. All of it without names.

    Raises:
        UserError: there is no cell of a name.
    """
    known = [cell.name for cell in grid.cells]
    for name in names:
        if name not in known:
            raise UserError(
                f"--cells {name} is no cell of the grid; its cells are {', '.join(known)}."
            )
    wanted = {grid.baseline, *names} if names else set(known)
    return replace(grid, cells=[cell for cell in grid.cells if cell.name in wanted])


def chosen(config: Config) -> dict[str, Any]:
    """The options that are not defaults, nested as in a config file, and the dataset."""
    found = _differing(to_dict(config), to_dict(Config(DataConfig(config.data.dataset))))
    return {"dataset": config.data.dataset, **found}


def _cell(name: Any, options: Any, shared: Config, seeds: int, place: str) -> Cell:
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+=-]*", name):
        raise UserError(
            f"{place} is to name a folder; use letters, digits and _ . + = - only, in quotes where "
            "YAML reads another thing in them."
        )
    if not isinstance(options, dict):
        raise UserError(f"{place} must hold a mapping of option names to values.")
    overrides = {key: value for key, value in options.items() if key != "seeds"}
    own = options.get("seeds", seeds)
    if type(own) is not int or own < 1:
        raise UserError(f"{place} has seeds: {own}; give a number of 1 or more.")
    try:
        config = _over(shared, overrides)
        check_ranges(config)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    if not config.run.validates:
        raise UserError(
            f"{place} has --validation-frequency 0, but cells are compared by their validation; "
            "give 1 or more."
        )
    if config.recipe.stage != "whole":
        raise UserError(
            f"{place} has --stage {config.recipe.stage}, whose options come from another run; "
            "compare such runs with gatedcir compare."
        )
    return Cell(name, overrides, config, min(own, seeds))


def _over(shared: Config, overrides: dict[str, Any]) -> Config:
    """Shared options, some replaced by a cell's own. UserError if these are wrong."""
    merged, known = to_dict(shared), by_name(Config)
    leaves = list(_leaves(overrides))
    if any(f"--{'.'.join(keys)}" not in known for keys, _ in leaves):
        from_dict(Config, {"dataset": shared.data.dataset} | overrides)  # says which one is meant
    for keys, value in leaves:
        if (flag := ".".join(keys)) in FIXED:
            raise UserError(f"--{flag} is the same for all cells; leave it out of the grid.")
        merged = _with(merged, keys, value)
    return expand_all(from_dict(Config, merged))


def _leaves(values: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """(names from the top, value) of nested options, with the present names of flags."""
    known = by_name(Config)
    for key, value in values.items():
        names = (*above, str(key).replace("_", "-"))
        if isinstance(value, dict):
            yield from _leaves(value, names)
        else:
            option = known.get(f"--{'.'.join(names)}")
            yield (names if option is None else tuple(option.flag[2:].split("."))), value


def _with(values: dict[str, Any], keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of nested options in which one option has another value."""
    first, *rest = keys
    return values | {first: _with(values[first], tuple(rest), value) if rest else value}


def _differing(values: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Nested options whose values differ from those of others."""
    found = {}
    for name, value in values.items():
        if isinstance(value, dict):
            if nested := _differing(value, others[name]):
                found[name] = nested
        elif value != others[name]:
            found[name] = value
    return found
