"""Tables of an ablation -> one Markdown page."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import yaml

from gatedcir.ablation.cells import Grid, chosen
from gatedcir.ablation.tables import FAILED
from gatedcir.evaluation.report import table
from gatedcir.evaluation.statistics import RESAMPLES


def format_page(
    runs: pd.DataFrame,
    cells: pd.DataFrame,
    grid: Grid,
    *,
    title: str,
    headline: str,
    headings: Mapping[str, str],
    protocol: Mapping[str, str],
    queries: int | None,
    pictures: Sequence[str],
) -> str:
    """The page of an ablation: the comparison and its method, figures, costs, options, failures.

    Args:
        runs: as `table_of_runs` gives it.
        cells: as `table_of_cells` gives it. May be empty.
        grid: the cells that were asked for.
        title: the page's.
        headline: the metric by which cells are sorted and charts drawn.
        headings: of all metrics that are shown.
        protocol: split -> how it is evaluated.
        queries: how many validation queries there are, if that is known.
        pictures: names of the charts that were drawn, in the folder of the page.
    """
    failed = runs[runs["status"] == FAILED]
    parts = [f"# {title}", _summary(runs, failed), *_protocol(protocol)]
    if queries is not None:
        parts += [f"{queries} validation queries: one is {100 / queries:.2f} points of a recall."]
    if len(cells):
        parts += [f"## {headline}", _headline(cells, grid.baseline, headline)]
        parts += [f"![{name.removesuffix('.png')}]({name})" for name in pictures]
        parts += ["## All recalls", _recalls(cells, headings), "## Costs", _costs(cells)]
    if len(failed):
        columns = (failed["cell"], failed["seed"], failed["reason"])
        rows = [[str(value) for value in row] for row in zip(*columns, strict=True)]
        parts += ["## Failed runs", table(["cell", "seed", "last line"], rows)]
    own = {cell.name: cell.overrides for cell in grid.cells}
    options = {"all cells": chosen(grid.shared), **own}
    parts += ["## Options", f"```yaml\n{yaml.safe_dump(options, sort_keys=False)}```"]
    return "\n\n".join([*parts, "## How to read this", _reading(len(cells), grid.baseline)]) + "\n"


def _summary(runs: pd.DataFrame, failed: pd.DataFrame) -> str:
    lines = [f"{len(runs) - len(failed)} of {len(runs)} runs finished, {len(failed)} failed."]
    for name, column in (("Code", "git"), ("Device", "device")):
        if column in runs:
            found = runs[column].dropna().unique()
            lines.append(f"{name}: {', '.join(found)}.")
            if len(found) > 1:
                lines.append(f"**The runs do not share one {name.lower()}.**")
    return "\n".join(lines)


def _protocol(protocol: Mapping[str, str]) -> list[str]:
    return ["\n".join(f"- {name}: {text}" for name, text in protocol.items())] if protocol else []


def _headline(cells: pd.DataFrame, baseline: str, metric: str) -> str:
    headings = ["cell", "seeds", "mean", "95% interval"]
    headings += [f"minus {baseline}", "95% interval", "pairs", "p"]
    rows = []
    for row in cells.to_dict("records"):
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
            ]
        )
    return table(headings, rows)


def _recalls(cells: pd.DataFrame, headings: Mapping[str, str]) -> str:
    rows = []
    for row in cells.to_dict("records"):
        texts = [
            f"{row[m]:.2f} {_ends(row[f'{m}_low'], row[f'{m}_high'])}".strip() for m in headings
        ]
        rows.append([row["cell"], *texts])
    return table(["cell", *headings.values()], rows)


def _costs(cells: pd.DataFrame) -> str:
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
        for row in cells.to_dict("records")
    ]
    return table(headings, rows)


def _number(value: float, form: str = ".2f") -> str:
    return "" if math.isnan(value) else format(value, form)


def _ends(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"[{low:.2f}, {high:.2f}]"


def _reading(cells: int, baseline: str) -> str:
    lines = [
        "- Metrics are percentages, those of the last epoch: the best of several epochs would "
        "flatter cells that vary more.",
        f"- Intervals: percentile bootstrap of the mean over seeds, {RESAMPLES} draws; one seed "
        "has none. They are too narrow for few seeds: of normal values they hold the true mean in "
        "76% of the cases with three seeds, 83% with five, 91% with ten. They say how training "
        "varies, not what other queries would give.",
        f"- Differences from {baseline} pair the runs of one seed; p is of the paired t-test, "
        "two-sided, for each comparison alone, and empty for one pair or equal differences.",
        "- Seconds a step: mean over epochs and seeds, and the fastest and slowest epoch. Other "
        "work on the machine is part of it: compare times only of runs that had it to themselves. "
        "Peak memory: the GPU's own, else all of the process', the most of all seeds.",
    ]
    if cells > 2:
        lines.insert(
            3,
            f"- With {cells - 1} comparisons, hold p against 0.05 / {cells - 1} = "
            f"{0.05 / (cells - 1):.3g} (Bonferroni).",
        )
    return "\n".join(lines)
