"""A grid file -> its cells, each with its config."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gatedcir.benchmarks.registry import benchmark
from gatedcir.errors import UserError
from gatedcir.options.checks import check_ranges
from gatedcir.options.command_line import by_name
from gatedcir.options.config import Config, DataConfig
from gatedcir.options.later_stage import taken
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
    """Its own options, nested as in a config file, and the cell that it starts from."""
    config: Config
    """All options: the shared ones, those taken from the run that it starts from, and its own. The
    later ones win. A cell's name stands for that run."""
    seeds: int
    """The number of seeds that it is run with."""
    source: str | None = None
    """The cell that it starts from: each run from the one with the same seed."""


@dataclass(frozen=True)
class Grid:
    """The cells, and the one that the others are compared with."""

    shared: Config
    baseline: str
    cells: list[Cell]


def read_grid(path: Path, shared: Config, *, seeds: int) -> Grid:
    """The grid in a YAML file, all options of all cells checked.

    The file holds `baseline: NAME` and `cells: {NAME: {options as in a config file}}`. With
    `seeds: N`, a cell asks for fewer seeds than the `seeds` of the others. With `from: NAME`, it
    starts from another cell, and has no more seeds than that one.

    Raises:
        UserError: the file is no grid; an option is unknown, has a wrong value or may not differ
            between cells; two cells with the same options; a cell that cannot start from another.
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
    sources, made = _sources(entries, path), dict[str, Cell]()
    for name in sources:
        place, source = f"cell {name} of {path}", made.get(sources[name] or "")
        made[name] = _cell(name, entries[name], shared, seeds, place, source)
    cells = [made[name] for name in entries]
    for one, other in itertools.combinations(cells, 2):
        if one.config == other.config:
            raise UserError(
                f"cells {one.name} and {other.name} of {path} have the same options; leave one out."
            )
    return Grid(shared, baseline, [_kept(cell, cells, path) for cell in cells])


def some_cells(grid: Grid, names: Sequence[str]) -> Grid:
    """The grid with its baseline, the named cells, and those that they start from.

    All of it without names.

    Raises:
        UserError: there is no cell of a name.
    """
    known = {cell.name: cell.source for cell in grid.cells}
    for name in names:
        if name not in known:
            raise UserError(
                f"--cells {name} is no cell of the grid; its cells are {', '.join(known)}."
            )
    wanted = {name for one in names for name in _chain(one, known)}
    wanted |= set(_chain(grid.baseline, known) if names else known)
    return replace(grid, cells=[cell for cell in grid.cells if cell.name in wanted])


def chosen(config: Config, source: Config | None = None) -> dict[str, Any]:
    """The options that are not defaults, nested as in a config file, and the dataset.

    Args:
        config: all options.
        source: those of the run that it starts from. What `--from` takes of them is left out.
    """
    dataset, run = config.data.dataset, config.recipe.from_run
    others = Config(DataConfig(dataset))
    if source is not None and run is not None:
        others = from_dict(Config, taken(to_dict(source), run, stage=config.recipe.stage))
    return {"dataset": dataset, **_differing(to_dict(config), to_dict(others))}


def _sources(entries: Mapping[Any, Any], path: Path) -> dict[Any, Any]:
    """Each cell's source or None, behind the source itself. UserError if one cannot be."""
    sources = {
        name: options.get("from") if isinstance(options, dict) else None
        for name, options in entries.items()
    }
    for name, source in sources.items():
        if source is not None and (not isinstance(source, str) or source not in entries):
            raise UserError(
                f"cell {name} of {path} starts from {source}, which is no cell of the grid; its "
                f"cells are {', '.join(map(str, entries))}."
            )
    chains = {name: _chain(name, sources) for name in entries}
    for name, chain in chains.items():
        if sources[chain[-1]] is not None:
            by = "" if len(chain) == 1 else f" by way of {', '.join(map(str, chain[1:]))}"
            raise UserError(
                f"cell {name} of {path} starts from itself{by}; leave out from: in one of them."
            )
    return {name: sources[name] for name in sorted(entries, key=lambda name: len(chains[name]))}


def _chain(name: Any, sources: Mapping[Any, Any]) -> list[Any]:
    """A cell, its source, the source of that, and so on. It ends where it would go in a circle."""
    chain = [name]
    while (source := sources[chain[-1]]) is not None and source not in chain:
        chain.append(source)
    return chain


def _kept(cell: Cell, cells: Sequence[Cell], path: Path) -> Cell:
    """A cell whose runs keep their weights if another one starts from it."""
    others = [other.name for other in cells if other.source == cell.name]
    if not others:
        return cell
    if not cell.config.run.save:
        raise UserError(
            f"cell {others[0]} of {path} starts from {cell.name}, which keeps no weights with "
            "--no-save; leave that out."
        )
    run = replace(cell.config.run, save_best=True)
    return replace(cell, config=replace(cell.config, run=run))


def _cell(
    name: Any, options: Any, shared: Config, seeds: int, place: str, source: Cell | None
) -> Cell:
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+=-]*", name):
        raise UserError(
            f"{place} is to name a folder; use letters, digits and _ . + = - only, in quotes where "
            "YAML reads another thing in them."
        )
    if not isinstance(options, dict):
        raise UserError(f"{place} must hold a mapping of option names to values.")
    overrides = {key: value for key, value in options.items() if key != "seeds"}
    most = seeds if source is None else source.seeds
    own = options.get("seeds", most)
    if type(own) is not int or own < 1:
        raise UserError(f"{place} has seeds: {own}; give a number of 1 or more.")
    if source is not None and min(own, seeds) > most:
        raise UserError(
            f"{place} has seeds: {own}, but {source.name}, from which it starts, has {most}; give "
            "at most as many."
        )
    try:
        config = _over(shared, overrides, source)
        if source is not None or config.recipe.stage == "whole":
            check_ranges(config)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    if not config.run.validates:
        raise UserError(
            f"{place} has --validation-frequency 0, but cells are compared by their validation; "
            "give 1 or more."
        )
    if config.recipe.stage != "whole" and source is None:
        raise UserError(
            f"{place} has --stage {config.recipe.stage}, which goes on with a trained model; name "
            "the cell that trains it with from:."
        )
    if "rerank" in overrides and config.model.matcher == "none":
        raise UserError(
            f"{place} has --rerank {config.recipe.rerank}, but its model has no matcher that "
            "reranks; add stage: rerank and from:, or leave it out."
        )
    return Cell(name, overrides, config, min(own, seeds), options.get("from"))


def _over(shared: Config, overrides: dict[str, Any], source: Cell | None) -> Config:
    """Shared options, some replaced by those of the source and the cell's own.

    UserError if the cell's own are wrong.
    """
    own = {key: value for key, value in overrides.items() if key != "from"}
    merged, known = to_dict(shared), by_name(Config)
    if source is not None:
        run, stage = Path("runs", source.name), str(own.get("stage", shared.recipe.stage))
        merged |= taken(to_dict(source.config), run, stage=stage) | {"from-run": str(run)}
    leaves = list(_leaves(own))
    if any(f"--{'.'.join(keys)}" not in known for keys, _ in leaves):
        from_dict(Config, {"dataset": shared.data.dataset} | own)  # says which one is meant
    for keys, value in leaves:
        if (flag := ".".join(keys)) in FIXED:
            raise UserError(f"--{flag} is the same for all cells; leave it out of the grid.")
        if flag == "from-run":
            raise UserError("--from-run is one run for all seeds; name a cell with from:.")
        if flag == "backbone" and source is not None:
            raise UserError(
                f"backbone: {value} names other weights than from: {source.name}, which takes that "
                "cell's; leave one of them out."
            )
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
