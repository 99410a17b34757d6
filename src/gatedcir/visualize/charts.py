"""Figures of compared cells -> charts. Every cell keeps its colour and marker in all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gatedcir.files import whole_file

# Okabe and Ito (2008): colour-blind eyes can tell these apart too. Black is for the baseline.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS, _LINES = "osD^vP", ("-", "--", "-.", ":")
_GREY = "#777777"
_ROW = 0.21  # inches of a legend's row


@dataclass(frozen=True)
class Bar:
    """One cell: its mean, the mean's interval (NaN without one), and the single seeds' values."""

    name: str
    mean: float
    low: float
    high: float
    values: Sequence[float]
    seconds: float
    """Time a step."""


@dataclass(frozen=True)
class _Look:
    color: str
    marker: str
    linestyle: str


def save_interval_chart(path: Path, bars: Sequence[Bar], *, baseline: str, label: str) -> None:
    """A row a cell, in the given order: mean and interval, seeds below, the baseline's line."""
    figure, axes = _new(width=7, height=1.3 + 0.42 * len(bars))
    looks = _looks([bar.name for bar in bars], baseline)
    for row, bar in enumerate(bars):
        look = looks[bar.name]
        axes.plot(bar.values, [row + 0.24] * len(bar.values), "o", color=_GREY, ms=3.5, alpha=0.6)
        axes.plot([bar.low, bar.high], [row, row], color=look.color, linewidth=2)
        axes.plot(bar.mean, row, look.marker, color=look.color, markersize=7)
        if bar.name == baseline:
            axes.axvline(bar.mean, color="black", linewidth=1, linestyle="--", zorder=0)
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlabel(label)
    axes.set_title("mean, 95% interval, single seeds (grey); dashed: the baseline", fontsize=9)
    axes.grid(axis="x", alpha=0.25)
    _save(figure, path)


def save_curves(
    path: Path,
    curves: Mapping[str, Mapping[int, float]],
    *,
    baseline: str,
    label: str,
) -> None:
    """A line a cell, name -> {epoch: value}, in the given order."""
    figure, axes = _new(width=8, height=max(4.2, _ROW * len(curves)))
    for name, look in _looks(list(curves), baseline).items():
        axes.plot(
            list(curves[name]),
            list(curves[name].values()),
            color=look.color,
            marker=look.marker,
            linestyle=look.linestyle,
            markersize=4,
            linewidth=1.5,
            label=name,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("validation, mean over seeds", fontsize=9)
    axes.set(xlabel="epoch", ylabel=label)
    _save_with_legend(figure, path)


def save_cost_chart(path: Path, bars: Sequence[Bar], *, baseline: str, label: str) -> None:
    """A point a cell: time a step, and the mean with its interval."""
    figure, axes = _new(width=8, height=max(4.2, _ROW * len(bars)))
    looks = _looks([bar.name for bar in bars], baseline)
    for bar in bars:
        look = looks[bar.name]
        ends = [bar.low, bar.high]
        axes.plot([bar.seconds] * 2, ends, color=look.color, linewidth=1, alpha=0.6)
        axes.plot(
            bar.seconds,
            bar.mean,
            color=look.color,
            marker=look.marker,
            linestyle="none",
            markersize=8,
            label=bar.name,
        )
    axes.set_title("mean and 95% interval, against time", fontsize=9)
    axes.set(xlabel="seconds a training step", ylabel=label)
    _save_with_legend(figure, path)


def _save_with_legend(figure: Figure, path: Path) -> None:
    """Put the legend next to the axes, because there may be many cells."""
    figure.axes[0].grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    _save(figure, path)


def _looks(names: Sequence[str], baseline: str) -> dict[str, _Look]:
    """A look for each name, in alphabetical order, so that it is the same in every chart."""
    looks = {}
    for place, name in enumerate(sorted(set(names) - {baseline})):
        turn, colour = divmod(place, len(_COLOURS))
        line = _LINES[turn % len(_LINES)]
        looks[name] = _Look(_COLOURS[colour], _MARKERS[(colour + turn) % len(_MARKERS)], line)
    return {name: looks.get(name, _Look("black", "o", "-")) for name in names}


def _new(*, width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=150)
