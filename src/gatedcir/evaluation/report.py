"""Metrics -> the printed and written report. The protocol always stands next to the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gatedcir.data.triplets import Split
from gatedcir.evaluation.query_statistics import Interval
from gatedcir.evaluation.single_inputs import IMAGE, TEXT


def format_report(
    metrics: Mapping[str, float],
    splits: Sequence[Split],
    *,
    title: str,
    intervals: Mapping[str, Interval] | None = None,
) -> str:
    """A block of text: title, each split's protocol, each metric in percent, with its interval."""
    width = max(map(len, metrics))
    lines = [title, *(f"  {split.name}: {split.protocol}" for split in splits)]
    for name, value in metrics.items():
        line = f"  {name:<{width}}  {value:6.2f}"
        if intervals is not None:
            line += f"  [{intervals[name].low:.2f}, {intervals[name].high:.2f}]"
        lines.append(line)
    if intervals is not None:
        counts = sorted({found.count for found in intervals.values()})
        some = str(counts[-1]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        lines.append(f"  [95% interval over {some} queries: Wilson for shares, else bootstrap]")
    return "\n".join(lines)


def format_composition(gap: Mapping[str, Mapping[str, Any]], *, whole: str = "model") -> str:
    """What the model finds against what one half of the query finds alone. `whole` is its name."""
    headings = ["", whole, IMAGE, TEXT, "gap", "one half solves", f"{whole} on the rest"]
    rows = []
    for name, found in gap.items():
        rest = "" if found["remainder"] is None else f"{found['remainder']:.2f}"
        numbers = [f"{found[key]:.2f}" for key in ("model", IMAGE, TEXT)]
        solved = f"{found['solved_alone']:.1f}%"
        rest += f" (of {found['remainder_count']})"
        rows.append([name, *numbers, f"{found['gap']:+.2f}", solved, rest])
    return table(headings, rows)


def format_scales(needed: Tensor, *, scales: Sequence[float], lengths: Sequence[int]) -> str:
    """How many images needed each scale, and how much of the tower's work they cost.

    Args:
        needed: bool [images, S].
        scales: S of them.
        lengths: the tokens of an image at each scale.

    >>> needed = torch.tensor([[True, True], [False, True]])
    >>> print(format_scales(needed, scales=[0.5, 1.0], lengths=[10, 30]))
    scales needed: 0.5 by 50% of the images, 1.0 by 100%, 1.5 of 2 on average; with pixels the \
tower reads 88% of the tokens of all scales
    """
    shares = needed.double().mean(0)
    each = [f"{scale} by {share:.0%}" for scale, share in zip(scales, shares.tolist(), strict=True)]
    each[0] += " of the images"
    tokens = torch.tensor(lengths, dtype=torch.double)
    part = float(shares @ tokens / tokens.sum())
    return (
        f"scales needed: {', '.join(each)}, {shares.sum():.1f} of {len(scales)} on average; with "
        f"pixels the tower reads {part:.0%} of the tokens of all scales"
    )


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
