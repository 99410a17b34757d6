"""Runs -> one row a run -> one row a cell, as plain tables.

Columns of a metric m in a cell's row: m (the mean), m_low, m_high (its interval), m_difference,
m_difference_low, m_difference_high and m_p (against the baseline, over the `pairs` of runs that
share a seed). A column is empty if there is no value.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gatedcir.ablation.cells import Grid
from gatedcir.ablation.runs import WAY_OUT, Run
from gatedcir.benchmarks.registry import benchmark
from gatedcir.errors import UserError, reason_of
from gatedcir.evaluation.statistics import Estimate, compare, estimate
from gatedcir.files import check_was_read, parse_json, write_text
from gatedcir.run_folder.folder import TRAIN, VALIDATION, read_table
from gatedcir.run_folder.provenance import recipes_of

FINISHED, FAILED = "finished", "failed"
PARAMETERS = ("trainable_parameters", "parameters")
TIMES = ("seconds_per_step", "seconds_per_step_least", "seconds_per_step_most")
COSTS = (*PARAMETERS, *TIMES, "peak_memory_gib")
_NOTHING = Estimate(math.nan, None, None, 0)
_ABOUT = ("cell", "from", "seed", "status", "reason", "git", "device")


def table_of_runs(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run: its status, the metrics of its last epoch, and its costs."""
    table = pd.DataFrame([_row(run) for run in runs])
    # Keep whole numbers whole, even if failed runs leave blanks in the column.
    return table.astype({name: "Int64" for name in PARAMETERS if name in table})


def metrics_of(runs: pd.DataFrame) -> list[str]:
    """The metrics among the columns of a table of runs."""
    return [name for name in runs.columns if name not in (*_ABOUT, *COSTS)]


def table_of_cells(runs: pd.DataFrame, grid: Grid, headline: str) -> pd.DataFrame:
    """One row a cell that has a finished run, the highest mean of the headline metric first."""
    done = runs[runs["status"] == FINISHED]
    metrics = metrics_of(runs)
    by_cell = {str(name): table.set_index("seed") for name, table in done.groupby("cell")}
    baseline = by_cell.get(grid.baseline)
    rows = []
    for cell in grid.cells:
        table = by_cell.get(cell.name)
        if table is None:
            continue
        pairs: list[int] = []
        if baseline is not None and cell.name != grid.baseline:
            pairs = [seed for seed in table.index if seed in baseline.index]
        row: dict[str, Any] = {
            "cell": cell.name,
            "from": cell.source or "",
            "seeds": len(table),
            "pairs": len(pairs),
        }
        for metric in metrics:
            if table[metric].isna().any():  # a fusion without a gate has no figures of it
                continue
            row |= _interval(metric, estimate(table[metric].tolist()))
            if baseline is None or baseline[metric].isna().any():
                row |= _comparison(metric, [], [])
                continue
            own, others = table[metric][pairs], baseline[metric][pairs]
            row |= _comparison(metric, own.tolist(), others.tolist())
        row |= {name: int(table[name].iloc[0]) for name in PARAMETERS}
        mean, least, most = TIMES
        row |= {mean: table[mean].mean(), least: table[least].min(), most: table[most].max()}
        row["peak_memory_gib"] = table["peak_memory_gib"].max()
        rows.append(row)
    if not rows:
        return pd.DataFrame()
    return pd.DataFrame(rows).sort_values(headline, ascending=False, kind="stable")


def curves_of(runs: Sequence[Run], metric: str) -> dict[str, dict[int, dict[int, float]]]:
    """Each cell's metric by seed and epoch, of its finished runs."""
    found: dict[str, dict[int, dict[int, float]]] = {}
    for run in runs:
        if run.is_finished():
            table = read_table(run.path / VALIDATION, metric, way_out=WAY_OUT)
            curve = dict(zip(table["epoch"].tolist(), table[metric].tolist(), strict=True))
            found.setdefault(run.cell, {})[run.seed] = curve
    return found


def _row(run: Run) -> dict[str, Any]:
    headline = benchmark(run.config.data.dataset).headline
    source = "" if run.source is None else run.source.cell
    row: dict[str, Any] = {"cell": run.cell, "from": source, "seed": run.seed}
    if not run.is_finished():
        return row | {"status": FAILED, "reason": run.failure()}
    provenance = provenance_of(run)
    train = read_table(run.path / TRAIN, "triplets_per_second", "peak_memory_gib", way_out=WAY_OUT)
    validation = read_table(run.path / VALIDATION, headline, way_out=WAY_OUT)
    [last] = validation.tail(1).drop(columns="epoch").to_dict("records")
    batch = run.config.optim.batch_size * provenance["processes"]
    seconds = batch / train["triplets_per_second"]
    times = (float(found) for found in (seconds.mean(), seconds.min(), seconds.max()))
    return row | {
        "status": FINISHED,
        "reason": None,
        "git": provenance["git"],
        "device": ", ".join(dict.fromkeys(provenance["devices"])),
        **{str(name): value for name, value in last.items()},
        **{name: provenance[name] for name in PARAMETERS},
        **dict(zip(TIMES, times, strict=True)),
        "peak_memory_gib": float(train["peak_memory_gib"].max()),
    }


def provenance_of(run: Run) -> dict[str, Any]:
    """A run's provenance. UserError if its file is damaged."""
    file = run.path / "provenance.json"
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
        if lacking := {"git", "devices", "processes", *PARAMETERS} - found.keys():
            raise ValueError(f"no {min(lacking)}")
    except (ValueError, OSError, AttributeError) as error:
        check_was_read(file, error)
        raise UserError(
            f"{file} is damaged ({reason_of(error)}); put a copy of it back, or {WAY_OUT}."
        ) from None
    return found


def queries_of(run: Run) -> int | None:
    """How many validation queries a run has. None for one of an earlier version."""
    found = provenance_of(run).get("queries")
    return sum(found.values()) if found else None


def recipes_in(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Cell -> each line on a recipe of its finished runs, once. Cells without one are left out.

    A line names cells in the place of the folders of their runs.
    """
    found: dict[str, list[str]] = {}
    for run in runs:
        for line in recipes_of(provenance_of(run)) if run.is_finished() else ():
            if (line := _with_cells(line, run)) not in (said := found.setdefault(run.cell, [])):
                said.append(line)
    return found


def _with_cells(line: str, run: Run) -> str:
    """A line on a recipe with a cell's name in the place of folders.

    A run repeats each line of its source as "of FOLDER: LINE". Along a chain the folders add up, of
    which only the last one says whose line it is.
    """
    about, source = "", run.source
    while source is not None:
        # The ablation's folder may have been moved since.
        folder = ".*?" + re.escape(str(Path(*source.path.parts[-3:])))
        if (later := re.fullmatch(f"of {folder}: (.*)", line, re.DOTALL)) is None:
            return about + re.sub(f"(, from ){folder}$", rf"\1{source.cell}", line)
        line, about, source = later[1], f"of {source.cell}: ", source.source
    return about + line


def _interval(name: str, found: Estimate) -> dict[str, float]:
    low, high = (math.nan if end is None else end for end in (found.low, found.high))
    return {name: found.mean, f"{name}_low": low, f"{name}_high": high}


def _comparison(
    metric: str, values: Sequence[float], baseline: Sequence[float]
) -> dict[str, float]:
    if not values:
        return _interval(f"{metric}_difference", _NOTHING) | {f"{metric}_p": math.nan}
    found = compare(values, baseline)
    p = math.nan if found.p is None else found.p
    return _interval(f"{metric}_difference", found.difference) | {f"{metric}_p": p}


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table whole or not at all, numbers with all their digits."""
    write_text(path, table.to_csv(index=False))
