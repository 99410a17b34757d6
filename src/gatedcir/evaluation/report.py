"""Metrics -> what is printed and written, always with the protocol beside the numbers."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Described(Protocol):
    """What a report says of a split."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def protocol(self) -> str: ...  # noqa: D102


def format_report(metrics: Mapping[str, float], splits: Sequence[Described], *, title: str) -> str:
    """A block of text: title, each split's protocol, each metric in percent."""
    width = max(map(len, metrics))
    lines = [title, *(f"  {split.name}: {split.protocol}" for split in splits)]
    return "\n".join([*lines, *(f"  {name:<{width}}  {v:6.2f}" for name, v in metrics.items())])


def format_table(rows: Mapping[str, Mapping[str, float]], columns: Mapping[str, str]) -> str:
    """A Markdown table: a row per entry, the given metrics as columns under the given headings.

    >>> print(format_table({"ours": {"recall_at1": 54.321}}, {"recall_at1": "R@1"}))
    |      |   R@1 |
    |:-----|------:|
    | ours |  54.3 |
    """
    first = max([len(name) for name in rows], default=0)
    widths = [max(len(heading), 5) for heading in columns.values()]
    headings = " | ".join(f"{h:>{w}}" for h, w in zip(columns.values(), widths, strict=True))
    rules = "|".join("-" * (w + 1) + ":" for w in widths)
    lines = [f"| {'':<{first}} | {headings} |", f"|:{'-' * (first + 1)}|{rules}|"]
    for name, row in rows.items():
        cells = [f"{row[column]:>{w}.1f}" for column, w in zip(columns, widths, strict=True)]
        lines.append(f"| {name:<{first}} | {' | '.join(cells)} |")
    return "\n".join(lines)
