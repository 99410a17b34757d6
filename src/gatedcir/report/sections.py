"""Runs and their findings -> the sections of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gatedcir.benchmarks.base import Benchmark
from gatedcir.report.blocks import Block, Card, Cards, Chart, Charts, Section, Table, Text
from gatedcir.report.measured import Found, composition, gate, kinds, recalls
from gatedcir.report.runs import RunFiles
from gatedcir.run_folder.provenance import recipes_of
from gatedcir.visualize.curves import Curve, curve_chart

_COSTS = ("triplets_per_second", "peak_memory_gib")
_NOT_DRAWN = ("epoch", "step", *_COSTS)


def report_sections(
    runs: Sequence[RunFiles], found: Found, benchmark: Benchmark, defaults: Mapping[str, Any]
) -> list[Section]:
    """All sections that there is something to say in."""
    sections = [
        Section("Result", _result(runs, found, benchmark)),
        Section("What was run", _what_was_run(runs, defaults)),
        Section("Training", _training(runs, benchmark)),
        Section("Recalls", recalls(found)),
        Section("What the model adds to one half of the query", composition(found)),
        Section("By kind of change", kinds(found)),
        Section("The gate", gate(found)),
        *(
            Section(f"Queries of {name}", _sheets(each.sheets, each.confused))
            for name, each in found.items()
        ),
        Section("Time and memory", _times(runs, found)),
    ]
    return [section for section in sections if section.blocks]


def _result(runs: Sequence[RunFiles], found: Found, benchmark: Benchmark) -> list[Block]:
    headline = benchmark.headline
    rows = []
    for run in runs:
        if run.name in found:
            one = found[run.name].examined.intervals[headline]
            value, ends = f"{one.value:.2f}", f"{one.low:.2f} to {one.high:.2f}"
            count = str(one.count)
        else:
            last = list(run.validation.get(headline, []))
            value = f"{last[-1]:.2f}" if last else ""
            ends, count = "", str(sum(run.provenance.get("queries", {}).values()) or "")
        epochs = str(len(run.train))
        rows.append([run.name, value, ends, count, epochs, f"{run.provenance.get('seed', '')}"])
    headings = ["run", headline, "95% interval", "queries", "epochs", "seed"]
    blocks: list[Block] = [Table(headings, rows)]
    lacking = [run.name for run in runs if run.name not in found]
    if lacking:
        blocks.append(
            Text(
                f"{', '.join(lacking)}: no weights were kept or read here, so the numbers are of "
                "the last validation, and queries are not shown."
            )
        )
    protocols = {
        f"{split}: {text}"
        for each in found.values()
        for split, text in each.examined.content["protocol"].items()
    } or {f"{s}: {text}" for run in runs for s, text in run.provenance.get("data", {}).items()}
    return [*blocks, *(Text(line) for line in sorted(protocols))]


def _what_was_run(runs: Sequence[RunFiles], defaults: Mapping[str, Any]) -> list[Block]:
    flat = [dict(_leaves(run.config)) for run in runs]
    usual = dict(_leaves(defaults))
    names = list(dict.fromkeys(name for one in flat for name in one))
    rows = []
    for name in names:
        values = [one.get(name) for one in flat]
        if any(value != usual.get(name) for value in values):
            different = " *" if len({str(value) for value in values}) > 1 else ""
            rows.append([name + different, _said(usual.get(name)), *map(_said, values)])
    headings = [run.name for run in runs]
    caption = "Options that differ from their default. * marks those in which the runs differ."
    about = [["recipes", *("; ".join(recipes_of(run.provenance)) for run in runs)]]
    for title, key in (
        ("revision", "git"),
        ("data set", "dataset"),
        ("devices", "devices"),
        ("precision", "precision"),
        ("trained parameters", "trainable_parameters"),
        ("all parameters", "parameters"),
        ("versions", "versions"),
        ("command", "command"),
    ):
        about.append([title, *(_said(run.provenance.get(key)) for run in runs)])
    return [
        Table(["option", "default", *headings], rows, caption, words=True),
        Table(["", *headings], about, "Where it was run", words=True),
    ]


def _training(runs: Sequence[RunFiles], benchmark: Benchmark) -> list[Block]:
    by_epoch = _panels(runs, "train") | _panels(runs, "validation", keep=benchmark.headings)
    names = [run.name for run in runs]
    blocks: list[Block] = []
    for title, along, panels in (
        ("By epoch: means of its steps, and the validation after it", "epoch", by_epoch),
        ("By step", "step", _panels(runs, "steps")),
    ):
        charts = [
            Chart.of(curve_chart(name, curves, runs=names, along=along), f"{name} by {along}")
            for name, curves in panels.items()
        ]
        if charts:
            blocks += [Text(title, "heading"), Charts(charts)]
    return blocks


def _panels(
    runs: Sequence[RunFiles], table: str, *, keep: Mapping[str, str] | None = None
) -> dict[str, Mapping[str, Curve]]:
    """The curves of a table's columns that have more than one point.

    With `keep` only its columns, under its headings, and those of a gate.
    """
    panels: dict[str, dict[str, dict[float, float]]] = {}
    along = "step" if table == "steps" else "epoch"
    for run in runs:
        rows: pd.DataFrame = getattr(run, table)
        for name in rows.columns:
            if name in _NOT_DRAWN or (keep is not None and not _is_kept(str(name), keep)):
                continue
            curve = rows[[along, name]].dropna()
            values = dict(zip(curve[along].tolist(), curve[name].tolist(), strict=True))
            if values:
                title = str(name) if keep is None else keep.get(str(name), str(name))
                panels.setdefault(title, {})[run.name] = values
    several = {name for name, each in panels.items() if any(len(one) > 1 for one in each.values())}
    return {name: each for name, each in panels.items() if name in several}


def _is_kept(name: str, keep: Mapping[str, str]) -> bool:
    return name in keep or "gate" in name or "change" in name


def _sheets(sheets: Mapping[str, Sequence[Card]], confused: Sequence[Card]) -> list[Block]:
    blocks: list[Block] = []
    if sheets:
        blocks.append(
            Text(
                "Green: the target in the first place. Orange, dashed: the target further down, or "
                "not found. Violet, dotted: the query's own image among the results."
            )
        )
    for kind, cards in sheets.items():
        blocks += [Text(kind, "heading"), Cards(cards)]
    if confused:
        blocks += [Text("confused most often", "heading"), Cards(confused)]
    return blocks


def _times(runs: Sequence[RunFiles], found: Found) -> list[Block]:
    rows = []
    for run in runs:
        seconds, train = run.seconds, run.train
        speed = f"{train[_COSTS[0]].mean():.1f}" if _COSTS[0] in train else ""
        memory = f"{train[_COSTS[1]].max():.2f}" if _COSTS[1] in train else ""
        each = found.get(run.name)
        rows.append(
            [
                run.name,
                "" if seconds is None else f"{seconds:.0f}",
                speed,
                memory,
                "" if each is None else f"{each.seconds:.1f}",
            ]
        )
    headings = ["run", "training, s", "triplets a second", "peak memory, GiB", "evaluation here, s"]
    return [Table(headings, rows, "As measured, whatever else the machine did.")]


def _leaves(values: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Nested options by their full names.

    >>> _leaves({"seed": 1, "model": {"neck": "fpn"}})
    [('seed', 1), ('model.neck', 'fpn')]
    """
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        nested = isinstance(value, dict)
        found += _leaves(value, f"{above}{name}.") if nested else [(f"{above}{name}", value)]
    return found


def _said(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
