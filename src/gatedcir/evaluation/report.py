"""Metrics -> the printed and written report. The protocol always stands next to the numbers."""

from collections.abc import Mapping, Sequence

from gatedcir.data.triplets import Split


def format_report(metrics: Mapping[str, float], splits: Sequence[Split], *, title: str) -> str:
    """A block of text: title, each split's protocol, each metric in percent."""
    width = max(map(len, metrics))
    lines = [title, *(f"  {split.name}: {split.protocol}" for split in splits)]
    return "\n".join([*lines, *(f"  {name:<{width}}  {v:6.2f}" for name, v in metrics.items())])


def format_table(rows: Mapping[str, Mapping[str, float]], columns: Mapping[str, str]) -> str:
    """A Markdown table with a row for each entry and a column for each metric, under its heading.

    >>> print(format_table({"ours": {"recall_at1": 54.321}}, {"recall_at1": "R@1"}))
    |      |   R@1 |
    |:-----|------:|
    | ours |  54.3 |
    """
    cells = [[name, *(f"{row[column]:5.1f}" for column in columns)] for name, row in rows.items()]
    return table(["", *columns.values()], cells)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A Markdown table. All columns but the first are aligned to the right.

    >>> print(table(["cell", "R@1"], [["a|b", "3.0"]]))
    | cell | R@1 |
    |:-----|----:|
    | a\|b | 3.0 |
    """
    lines = [headings, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    rule = [":" + "-" * (first + 1), *("-" * (width + 1) + ":" for width in others)]
    texts = [
        " | ".join([line[0].ljust(first), *map(str.rjust, line[1:], others)]) for line in lines
    ]
    return "\n".join([f"| {texts[0]} |", f"|{'|'.join(rule)}|", *(f"| {x} |" for x in texts[1:])])
