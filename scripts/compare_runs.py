"""Compare the kept runs of an ablation on other data, by kinds of texts, or by epoch.

    python scripts/compare_runs.py --ablation runs/gate --dataset FashionIQ --data-path garments
    python scripts/compare_runs.py --ablation runs/gate --dataset CIRR --by text
    python scripts/compare_runs.py --ablation runs/gate --dataset CIRR --by epoch

The first is a transfer: the runs were trained on another data set than they are evaluated on. The
ablation needs --save-training. Its last states are compared, seed by seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gatedcir.errors import run_command
from gatedcir.options.config import DataConfig, Device, MeasuredSplit
from gatedcir.options.parsing import parse
from gatedcir.outputs import check_file_to_write


@dataclass(frozen=True)
class Options:
    """Which runs, on which data, and how they are compared."""

    ablation: Path
    """The --output of `gatedcir ablate`."""
    data: Annotated[DataConfig, tyro.conf.arg(name="")]
    by: Literal["nothing", "text", "epoch"] = "nothing"
    """Rows of the table: all queries together, queries by the length of their text and by the
    number of its changes, or the epochs of training."""
    baseline: str = "none"
    """The cell that the others are compared with."""
    split: MeasuredSplit = "val"
    output: Path | None = None
    """Markdown file to write. Without it: the table is only printed."""
    device: Device = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table of the headline metric with intervals over seeds and paired differences."""
    options = parse(Options, argv, description="Compare the kept runs of an ablation again.")
    if options.output is not None:
        check_file_to_write(options.output, "--output", "comparison")
    from gatedcir.ablation.again import by_epoch, evaluated, format_values, kept_runs, sources_of
    from gatedcir.benchmarks.registry import benchmark
    from gatedcir.files import write_text

    runs = kept_runs(options.ablation, options.baseline)
    headline = benchmark(options.data.dataset).headline
    if options.by == "epoch":
        values, protocol = by_epoch(runs, headline), ""
    else:
        values, protocol = evaluated(
            runs,
            options.data,
            options.split,
            by_texts=options.by == "text",
            device=options.device,
        )
    found = format_values(values, options.baseline, sources_of(runs))
    page = "\n\n".join(filter(None, [f"{headline}, %", protocol, found])) + "\n"
    print(page)
    if options.output is not None:
        write_text(options.output, page)


if __name__ == "__main__":
    run_command(main)
