"""The kept runs of an ablation -> other comparisons: on other data, by kinds of texts, by epoch."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from gatedcir.ablation.runs import RUNS, WAY_OUT
from gatedcir.assemble.evaluator import open_evaluator
from gatedcir.errors import UserError
from gatedcir.evaluation.evaluator import rank_each
from gatedcir.evaluation.report import table
from gatedcir.evaluation.statistics import Estimate, compare, estimate
from gatedcir.evaluation.text_complexity import by_text
from gatedcir.files import CONFIG_FILE
from gatedcir.options.config import DataConfig
from gatedcir.options.parsing import read_yaml
from gatedcir.run_folder.checkpoint import CHECKPOINTS, LAST
from gatedcir.run_folder.folder import VALIDATION, read_table

Runs = Mapping[str, Mapping[int, Path]]
"""Cell -> seed -> folder."""
Values = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Part -> cell -> seed -> the headline metric in percent."""


def kept_runs(folder: Path, baseline: str) -> Runs:
    """The runs of `gatedcir ablate` in its output folder, the baseline first.

    Raises:
        UserError: there are none, or none of the baseline.
    """
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in sorted((folder / RUNS).glob("*/seed*")):
        found[path.parent.name][int(path.name.removeprefix("seed"))] = path
    if baseline not in found:
        cells = ", ".join(found) or "no runs"
        raise UserError(
            f"{folder} holds {cells} and not the baseline {baseline}; name the --output of an "
            "ablation, or another --baseline."
        )
    return {baseline: found[baseline], **found}


def sources_of(runs: Runs) -> dict[str, str]:
    """Each cell that starts from another one -> that one. UserError if a config is damaged."""
    found = {}
    for cell, _, path in _each(runs):
        start = read_yaml(path / CONFIG_FILE).get("from-run")
        if start is not None:
            found[cell] = Path(start).parent.name
    return found


def by_epoch(runs: Runs, metric: str) -> Values:
    """Validation by epoch, from the runs' tables. Raises UserError if one is damaged."""
    values: dict[str, dict[str, dict[int, float]]] = {}
    for cell, seed, path in _each(runs):
        for row in read_table(path / VALIDATION, way_out=WAY_OUT).to_dict("records"):
            part = values.setdefault(f"epoch {row['epoch'] + 1}", {})
            part.setdefault(cell, {})[seed] = row[metric]
    return values


def evaluated(
    runs: Runs, data: DataConfig, split: str, *, by_texts: bool, device: str
) -> tuple[Values, str]:
    """The last state of each run on a data set, whole or by kinds of texts.

    Returns:
        The values, and the protocol of the split.

    Raises:
        UserError: a run kept no last state, or as `open_evaluator`.
    """
    values: dict[str, dict[str, dict[int, float]]] = {}
    protocol = ""
    for cell, seed, path in _each(runs):
        file = path / CHECKPOINTS / LAST
        if not file.is_file():
            raise UserError(f"{path} kept no {LAST}; run the ablation with --save-training.")
        evaluator, splits = open_evaluator(file, data, split, device=device)
        measured = evaluator.benchmark
        [rankings] = rank_each(evaluator, splits, [evaluator.encode_query])
        protocol = "\n".join(f"- {part.name}: {part.protocol}" for part in splits)
        texts = [[measured.evaluation_text(t.captions) for t in part.triplets] for part in splits]
        parts = by_text(rankings, texts) if by_texts else {"all": rankings}
        for part, some in parts.items():
            found = measured.measure(some)[measured.headline]
            values.setdefault(part, {}).setdefault(cell, {})[seed] = found
    return values, protocol


def format_values(values: Values, baseline: str, sources: Mapping[str, str] | None = None) -> str:
    """A Markdown table with a row for each part and cell, and differences from the baseline.

    Args:
        values: of the cells.
        baseline: the cell that the others are compared with.
        sources: the cell that a cell starts from, where it does. Its row names it.
    """
    sources = sources or {}
    headings = ["queries", "cell", "seeds", "mean", "95% interval", f"minus {baseline}"]
    rows = []
    for part, cells in values.items():
        for cell, by_seed in cells.items():
            name = f"{cell} (from {sources[cell]})" if cell in sources else cell
            row = [part, name, str(len(by_seed)), *_figures(estimate(list(by_seed.values())))]
            pairs = sorted(by_seed.keys() & cells[baseline].keys())
            if cell != baseline and pairs:
                found = compare(
                    [by_seed[seed] for seed in pairs], [cells[baseline][seed] for seed in pairs]
                )
                row += _figures(found.difference, "+.2f")
                row += ["" if found.p is None else f"{found.p:.3g}"]
            rows.append([*row, *[""] * (len(headings) + 2 - len(row))])
    return table([*headings, "95% interval", "p"], rows)


def _each(runs: Runs) -> list[tuple[str, int, Path]]:
    return [(cell, seed, path) for cell, seeds in runs.items() for seed, path in seeds.items()]


def _figures(found: Estimate, form: str = ".2f") -> list[str]:
    ends = "" if found.low is None else f"[{found.low:{form}}, {found.high:{form}}]"
    return [format(found.mean, form), ends]
