"""An ablation's runs -> tables, charts and a page in its folder."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from gatedcir.ablation.cells import Grid
from gatedcir.ablation.report import format_page
from gatedcir.ablation.runs import Run
from gatedcir.ablation.same_data import check_data
from gatedcir.ablation.tables import (
    FINISHED,
    curves_of,
    metrics_of,
    table_of_cells,
    table_of_runs,
    write_csv,
)
from gatedcir.benchmarks.registry import benchmark
from gatedcir.files import write_text
from gatedcir.visualize import charts

INTERVALS, CURVES, COSTS = "headline.png", "curves.png", "costs.png"


def write_all(folder: Path, grid: Grid, runs: Sequence[Run], *, title: str) -> Path:
    """Write cells.csv (a row a run), summary.csv (a row a cell), charts and report.md.

    Returns the path of report.md. If no run has finished, there are no charts, and summary.csv is
    empty.

    Raises:
        UserError: finished runs saw different data, or a file of a run is damaged.
    """
    check_data(runs)
    measured = benchmark(grid.shared.data.dataset)
    metric = measured.headline
    table = table_of_runs(runs)
    cells = table_of_cells(table, grid, metric)
    write_csv(folder / "cells.csv", table)
    write_csv(folder / "summary.csv", cells)
    pictures, protocol = [], {}
    if len(cells):
        done = next(run for run in runs if run.is_finished())
        protocol = json.loads((done.path / "provenance.json").read_text(encoding="utf-8"))["data"]
        bars = _bars(table, cells, metric)
        curves = curves_of(runs, metric)
        lines = {bar.name: curves[bar.name] for bar in bars}
        baseline, label = grid.baseline, f"{metric}, %"
        charts.save_interval_chart(folder / INTERVALS, bars, baseline=baseline, label=label)
        charts.save_curves(folder / CURVES, lines, baseline=baseline, label=label)
        charts.save_cost_chart(folder / COSTS, bars, baseline=baseline, label=label)
        pictures = [INTERVALS, CURVES, COSTS]
    page = format_page(
        table,
        cells,
        grid,
        title=title,
        headline=metric,
        headings=measured.columns(metrics_of(table)),
        protocol=protocol,
        pictures=pictures,
    )
    write_text(folder / "report.md", page)
    return folder / "report.md"


def _bars(table: pd.DataFrame, cells: pd.DataFrame, metric: str) -> list[charts.Bar]:
    done = table[table["status"] == FINISHED]
    return [
        charts.Bar(
            name=row["cell"],
            mean=row[metric],
            low=row[f"{metric}_low"],
            high=row[f"{metric}_high"],
            values=done.loc[done["cell"] == row["cell"], metric].tolist(),
            seconds=row["seconds_per_step"],
        )
        for row in cells.to_dict("records")
    ]
