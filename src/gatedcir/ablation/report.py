"""Tables of an ablation -> one Markdown page, and the sections of one HTML page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import yaml

from gatedcir.ablation.cells import Grid, chosen
from gatedcir.ablation.tables import FAILED
from gatedcir.evaluation.report import table
from gatedcir.evaluation.statistics import RESAMPLES
from gatedcir.report.blocks import Chart, Charts, Section, Table, Text

Rows = tuple[list[str], list[list[str]]]
"""Headings, and rows of texts."""


@dataclass(frozen=True)
class Compared:
    """What the pages of an ablation say."""

    runs: pd.DataFrame
    """As `table_of_runs` gives it."""
    cells: pd.DataFrame
    """As `table_of_cells` gives it. May be empty."""
    grid: Grid
    """The cells that were asked for."""
    headline: str
    """The metric by which cells are sorted and charts drawn."""
    headings: Mapping[str, str]
    """Of all metrics that are shown."""
    protocol: Mapping[str, str]
    """Split -> how it is evaluated."""
    queries: int | None
    """How many validation queries there are, if that is known."""
    recipes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Cell -> what its runs say about their recipes, if they used some."""

    @property
    def chained(self) -> bool:
        """Whether a cell starts from another one."""
        return any(cell.source for cell in self.grid.cells)

    @property
    def failed(self) -> pd.DataFrame:
        """Rows of the failed runs."""
        return self.runs[self.runs["status"] == FAILED]


def format_page(found: Compared, *, title: str, pictures: Sequence[str]) -> str:
    """The Markdown page: the comparison and its method, figures, costs, options, failures.

    Args:
        found: what it says.
        title: the page's.
        pictures: names of the charts that were drawn, in the folder of the page.
    """
    parts = [f"# {title}", "\n".join(_summary(found))]
    if found.protocol:
        parts.append("\n".join(f"- {name}: {text}" for name, text in found.protocol.items()))
    if len(found.cells):
        parts += [f"## {found.headline}", table(*_headline(found))]
        parts += [f"![{name.removesuffix('.png')}]({name})" for name in pictures]
        parts += ["## All recalls", table(*_recalls(found)), "## Costs", table(*_costs(found))]
    if found.recipes:
        parts += ["## Recipes", table(*_recipes(found))]
    if len(found.failed):
        parts += ["## Failed runs", table(*_failures(found))]
    parts += ["## Options", f"```yaml\n{_options(found)}```"]
    reading = "\n".join(f"- {line}" for line in _reading(found))
    return "\n\n".join([*parts, "## How to read this", reading]) + "\n"


def page_sections(found: Compared, charts: Sequence[Chart]) -> list[Section]:
    """The same as the sections of an HTML page, with the charts in it."""
    sections = [
        Section(
            "Runs",
            [
                *(Text(line.replace("**", "")) for line in _summary(found)),
                *(Text(f"{name}: {text}") for name, text in found.protocol.items()),
            ],
        )
    ]
    if len(found.cells):
        sections += [
            Section(found.headline, [Table(*_headline(found)), Charts(charts, wide=True)]),
            Section("All recalls", [Table(*_recalls(found))]),
            Section("Costs", [Table(*_costs(found))]),
        ]
    if found.recipes:
        sections.append(Section("Recipes", [Table(*_recipes(found), words=True)]))
    if len(found.failed):
        sections.append(Section("Failed runs", [Table(*_failures(found), words=True)]))
    sections.append(Section("Options", [Text(_options(found), "code")]))
    return [*sections, Section("How to read this", [Text(line) for line in _reading(found)])]


def _summary(found: Compared) -> list[str]:
    runs, failed = found.runs, found.failed
    lines = [f"{len(runs) - len(failed)} of {len(runs)} runs finished, {len(failed)} failed."]
    for name, column in (("Code", "git"), ("Device", "device")):
        if column in runs:
            values = runs[column].dropna().unique()
            lines.append(f"{name}: {', '.join(values)}.")
            if len(values) > 1:
                lines.append(f"**The runs do not share one {name.lower()}.**")
    if found.queries is not None:
        weight = f"one is {100 / found.queries:.2f} points of a recall"
        lines.append(f"{found.queries} validation queries: {weight}.")
    return lines


def _recipes(found: Compared) -> Rows:
    return ["cell", "recipes"], [[cell, "; ".join(said)] for cell, said in found.recipes.items()]


def _failures(found: Compared) -> Rows:
    columns = (found.failed["cell"], found.failed["seed"], found.failed["reason"])
    rows = [[str(value) for value in row] for row in zip(*columns, strict=True)]
    return ["cell", "seed", "last line"], rows


def _options(found: Compared) -> str:
    own = {cell.name: cell.overrides for cell in found.grid.cells}
    return yaml.safe_dump({"all cells": chosen(found.grid.shared), **own}, sort_keys=False)


def _headline(found: Compared) -> Rows:
    baseline, metric = found.grid.baseline, found.headline
    headings = ["cell", "seeds", "mean", "95% interval"]
    headings += [f"minus {baseline}", "95% interval", "pairs", "p"]
    headings += ["starts from"] * found.chained
    rows = []
    for row in found.cells.to_dict("records"):
        rows.append(
            [
                row["cell"],
                str(row["seeds"]),
                _number(row[metric]),
                _ends(row[f"{metric}_low"], row[f"{metric}_high"]),
                _number(row[f"{metric}_difference"], "+.2f"),
                _ends(row[f"{metric}_difference_low"], row[f"{metric}_difference_high"]),
                str(row["pairs"] or ""),
                _number(row[f"{metric}_p"], ".3g"),
                *[row["from"]] * found.chained,
            ]
        )
    return headings, rows


def _recalls(found: Compared) -> Rows:
    headings, rows = found.headings, []
    for row in found.cells.to_dict("records"):
        texts = [
            f"{row[m]:.2f} {_ends(row[f'{m}_low'], row[f'{m}_high'])}".strip() for m in headings
        ]
        rows.append([row["cell"], *texts])
    return ["cell", *headings.values()], rows


def _costs(found: Compared) -> Rows:
    headings = ["cell", "trained parameters", "all parameters", "s a step", "epochs' s a step"]
    headings += ["peak memory, GiB"]
    rows = [
        [
            row["cell"],
            f"{row['trainable_parameters']:,}",
            f"{row['parameters']:,}",
            f"{row['seconds_per_step']:.3f}",
            f"{row['seconds_per_step_least']:.3f} to {row['seconds_per_step_most']:.3f}",
            f"{row['peak_memory_gib']:.2f}",
        ]
        for row in found.cells.to_dict("records")
    ]
    return headings, rows


def _number(value: float, form: str = ".2f") -> str:
    return "" if math.isnan(value) else format(value, form)


def _ends(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"[{low:.2f}, {high:.2f}]"


def _reading(found: Compared) -> list[str]:
    cells, baseline = len(found.cells), found.grid.baseline
    lines = [
        "Metrics are percentages, those of the last epoch: the best of several epochs would "
        "flatter cells that vary more.",
        f"Intervals: percentile bootstrap of the mean over seeds, {RESAMPLES} draws; one seed "
        "has none. They are too narrow for few seeds: of normal values they hold the true mean in "
        "76% of the cases with three seeds, 83% with five, 91% with ten. They say how training "
        "varies, not what other queries would give.",
        f"Differences from {baseline} pair the runs of one seed; p is of the paired t-test, "
        "two-sided, for each comparison alone, and empty for one pair or equal differences.",
        "Seconds a step: mean over epochs and seeds, and the fastest and slowest epoch. Other "
        "work on the machine is part of it: compare times only of runs that had it to themselves. "
        "Peak memory: the GPU's own, else all of the process', the most of all seeds.",
    ]
    if found.chained:
        lines.append(
            "A cell that starts from another one goes on with that cell's best weights of the same "
            "seed. Its costs are those of its own epochs."
        )
    if cells > 2:
        lines.insert(
            3,
            f"With {cells - 1} comparisons, hold p against 0.05 / {cells - 1} = "
            f"{0.05 / (cells - 1):.3g} (Bonferroni).",
        )
    return lines
