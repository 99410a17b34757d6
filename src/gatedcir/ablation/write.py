"""An ablation's runs -> tables, charts and a page in its folder."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gatedcir.ablation.cells import Grid
from gatedcir.ablation.report import Compared, format_page, page_sections
from gatedcir.ablation.runs import RUNS, Run
from gatedcir.ablation.same_data import check_data
from gatedcir.ablation.tables import (
    FINISHED,
    TIMES,
    curves_of,
    metrics_of,
    queries_of,
    recipes_in,
    table_of_cells,
    table_of_runs,
    write_csv,
)
from gatedcir.benchmarks.registry import benchmark
from gatedcir.errors import UserError
from gatedcir.files import CONFIG_FILE, write_text
from gatedcir.report.blocks import Chart, write_page
from gatedcir.visualize import charts, style

CHARTS = {
    "headline.png": charts.headline_chart,
    "curves.png": charts.curves_chart,
    "costs.png": charts.cost_chart,
}


_TABLES = ("cells.csv", "summary.csv")
_PAGES = ("report.md", "report.html")


def check_place(folder: Path) -> None:
    """UserError if a folder is a run, or holds files of others that `write_all` would replace."""
    if (folder / CONFIG_FILE).exists():
        raise UserError(f"{folder} holds a run and no ablation; name a new folder with --output.")
    if not (folder / RUNS).is_dir():
        for name in (*_TABLES, *_PAGES, *CHARTS):
            if (folder / name).exists():
                raise UserError(
                    f"{folder} holds {name} and is no ablation; name a new folder with --output."
                )


def write_all(folder: Path, grid: Grid, runs: Sequence[Run], *, title: str) -> Path:
    """Write cells.csv (a row a run), summary.csv (a row a cell), charts, report.html, report.md.

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
    for name, rows in zip(_TABLES, (table, cells), strict=True):
        write_csv(folder / name, rows)
    charts_of, protocol, queries = dict[str, Figure](), {}, None
    if len(cells):
        done = next(run for run in runs if run.is_finished())
        protocol = json.loads((done.path / "provenance.json").read_text(encoding="utf-8"))["data"]
        queries = queries_of(done)
        shown = _shown(table, cells, curves_of(runs, metric), metric, grid.baseline)
        for name, draw in CHARTS.items():
            charts_of[name] = draw(
                shown, baseline=grid.baseline, label=f"{metric}, %", queries=queries
            )
            style.save(charts_of[name], folder / name)
    columns = measured.columns(metrics_of(table))
    found = Compared(table, cells, grid, metric, columns, protocol, queries, recipes_in(runs))
    drawn = [Chart.of(figure, name) for name, figure in charts_of.items()]
    text, html = (folder / name for name in _PAGES)
    write_page(html, title, page_sections(found, drawn))
    page = format_page(found, title=title, pictures=list(charts_of))
    write_text(text, page)
    return text


def _shown(
    table: pd.DataFrame,
    cells: pd.DataFrame,
    curves: Mapping[str, Mapping[int, Mapping[int, float]]],
    metric: str,
    baseline: str,
) -> list[charts.Cell]:
    """What the charts show of each cell, in the order of the summary."""
    done = table[table["status"] == FINISHED]
    seeds = {str(name): found.set_index("seed") for name, found in done.groupby("cell")}
    others = seeds[baseline][metric].to_dict() if baseline in seeds else {}
    shown = []
    for row in cells.to_dict("records"):
        name = row["cell"]
        values: dict[Any, float] = seeds[name][metric].to_dict()
        pairs = {seed: values[seed] - others[seed] for seed in values if seed in others}
        times = seeds[name][list(TIMES)].itertuples()
        shown.append(
            charts.Cell(
                name=name,
                values=values,
                interval=_ends(row, metric),
                differences={} if name == baseline else pairs,
                difference_interval=_ends(row, f"{metric}_difference"),
                seconds={seed: charts.Seconds(*found) for seed, *found in times},
                curves=curves[name],
            )
        )
    return shown


def _ends(row: Mapping[Any, Any], name: str) -> tuple[float, float] | None:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return None if math.isnan(low) else (low, high)
