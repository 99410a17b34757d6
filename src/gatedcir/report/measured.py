"""What was measured of the runs -> blocks of a report: recalls, halves of a query, kinds, gates."""

from collections.abc import Mapping

from gatedcir.evaluation.reranking import Gain
from gatedcir.evaluation.single_inputs import IMAGE, TEXT
from gatedcir.report.blocks import Block, Card, Cards, Table, Text
from gatedcir.report.findings import KIND_CUTOFF, Findings
from gatedcir.report.queries import gate_tile

Found = Mapping[str, Findings]
"""Findings by the name of a run. A run without weights has none."""


def recalls(found: Found) -> list[Block]:
    """Metrics with intervals, what reranking gains, and what the gate does."""
    if not found:
        return []
    rows: dict[str, list[str]] = {}
    for each in found.values():
        for name, one in each.examined.intervals.items():
            rows.setdefault(name, [name]).append(f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]")
    gains = [(name, each.examined.gain) for name, each in found.items()]
    closed = [each.examined.without_gate for each in found.values()]
    blocks: list[Block] = [
        Table(
            ["metric", *found],
            [row for row in rows.values() if len(row) == len(found) + 1],
            "In percent, with 95% intervals over queries: Wilson for shares, else bootstrap.",
        )
    ]
    blocks += [_gain(name, gain) for name, gain in gains if gain is not None]
    for name, each, without in zip(found, found.values(), closed, strict=True):
        if without is not None:
            headline = each.examined.measured.benchmark.headline
            value = each.examined.measured.metrics[headline]
            blocks.append(
                Text(
                    f"{name}: {headline} is {value:.2f}, and {without[headline]:.2f} when the "
                    "text changes no visual token."
                )
            )
    return blocks


def _gain(name: str, gain: Gain) -> Block:
    rows = [
        [
            metric,
            f"{before:.2f}",
            f"{gain.after[metric]:.2f}",
            f"{gain.after[metric] - before:+.2f}",
        ]
        for metric, before in gain.before.items()
    ]
    caption = (
        f"{name} judges the first {gain.top} images of each query again, in "
        f"{gain.milliseconds:.1f} ms. Its search finds {gain.ceiling:.2f}% of the targets among "
        "them, which no reranking exceeds."
    )
    return Table(["metric", "search alone", "reranked", "gain"], rows, caption)


def composition(found: Found) -> list[Block]:
    """What the model finds beyond one half of the query."""
    rows = []
    for name, each in found.items():
        assert each.examined.composition is not None
        shown = name if each.examined.gain is None else f"{name}, its search alone"
        for metric, one in each.examined.composition.items():
            low, high = one["solved_alone_interval"]
            rest = "" if one["remainder"] is None else f"{one['remainder']:.2f}"
            rows.append(
                [
                    f"{shown}, {metric}",
                    *(f"{one[key]:.2f}" for key in ("model", IMAGE, TEXT)),
                    f"{one['gap']:+.2f}",
                    f"{one['solved_alone']:.1f}% [{low:.1f}, {high:.1f}]",
                    f"{rest} (of {one['remainder_count']})",
                ]
            )
    if not rows:
        return []
    headings = ["", "model", IMAGE, TEXT, "gap", "one half solves", "model on the rest"]
    return [
        Table(headings, rows),
        Text(
            "The gap is the model's recall minus that of the better half. Near zero, the model "
            "does not need both halves of the query."
        ),
    ]


def kinds(found: Found) -> list[Block]:
    """Recall by the kind of change."""
    names = list(dict.fromkeys(row["kind"] for each in found.values() for row in each.kinds[1]))
    rows = []
    for kind in names:
        cells, count = [], ""
        for each in found.values():
            row = next((one for one in each.kinds[1] if one["kind"] == kind), None)
            if row is None:
                cells.append("")
                continue
            count = str(row["count"])
            low, high = row["interval"]
            cells.append(f"{row['recall']:.1f} [{low:.1f}, {high:.1f}]")
        rows.append([kind, count, *cells])
    if not rows:
        return []
    sources = " and ".join(dict.fromkeys(each.kinds[0] for each in found.values()))
    caption = f"recall_at{KIND_CUTOFF} by kind, from {sources}. A query is in each of its kinds."
    return [Table(["kind", "queries", *found], rows, caption)]


def gate(found: Found) -> list[Block]:
    """Maps of the gates, and how well they find what changes."""
    blocks: list[Block] = []
    cards, rows = [], []
    for name, each in found.items():
        if each.gate is not None:
            note = f"mean over channels and {each.gate_queries} queries; colours from 0 to 1"
            cards.append(Card(name, note, [[gate_tile(each.gate)]]))
        rows += [[f"{name}, {key}", f"{value:.3f}"] for key, value in each.gate_figures.items()]
    if cards:
        blocks.append(Cards(cards))
    if rows:
        caption = "How well the map finds what truly changes: 0.5 is chance, 1 is perfect."
        blocks.append(Table(["figure", "value"], rows, caption))
    return blocks
