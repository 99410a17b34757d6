"""Train all cells of a grid with several seeds, and report how certain the differences are."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gatedcir.commands.main import COMMANDS
from gatedcir.errors import UserError
from gatedcir.options.config import Config, DataConfig, RunConfig
from gatedcir.options.parsing import parse

# Runs that are compared need no weights afterwards. --save-best keeps them.
SHARED = Config(DataConfig(tyro.MISSING), run=RunConfig(save_best=False))
_MORE = (
    "The cells share the options of training. --seed is the first seed. Finished runs in --output "
    "are not run again."
)


@dataclass(frozen=True)
class Options:
    """Which cells, how often, and where to."""

    grid: Path
    """YAML file with the cells. Each cell is a set of options that win over the shared ones. With
    from: NAME, it starts from the runs of another cell."""
    training: Annotated[Config, tyro.conf.arg(name="")] = SHARED
    """Options that all cells share. --output is the folder for all runs and the report."""
    cells: tuple[str, ...] = ()
    """Run only these cells of the grid, the baseline, and the cells that these start from. Without
    it: all."""
    seeds: int = 5
    """Seeds of every cell. A cell may ask for fewer."""
    jobs: int = 1
    """Runs at a time. On one machine they share the processor's cores and the GPU."""
    engine: Literal["processes", "slurm"] = "processes"
    """What starts the runs. processes: this machine. slurm: each run is a job of a cluster."""
    slurm: tuple[str, ...] = ()
    """Options of sbatch for each job, such as partition=gpu gpus_per_node=1 time=720."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run all unfinished runs and write the report. Exit with status 1 if runs failed."""
    options = parse(Options, argv, description=f"{COMMANDS['ablate']} {_MORE}")
    _check(options)
    from gatedcir.ablation.cells import read_grid, some_cells
    from gatedcir.ablation.engines import ENGINES
    from gatedcir.ablation.folders import check_folders
    from gatedcir.ablation.runs import check_free, execute, runs_of
    from gatedcir.ablation.same_data import check_data
    from gatedcir.ablation.write import check_place, write_all
    from gatedcir.run_folder.claim import Claim
    from gatedcir.run_folder.folder import RUNS

    given = options.training.run
    shared = replace(options.training, run=replace(given, output=None))
    whole = read_grid(options.grid, shared, seeds=options.seeds)
    grid = some_cells(whole, options.cells)
    dataset = shared.data.dataset
    output = given.output or RUNS / f"ablation-{options.grid.stem}-{dataset.lower()}"
    runs = runs_of(grid, output)
    check_place(output)
    claim = Claim(output, "--output")
    try:
        check_folders(runs, runs_of(whole, output))
        waiting = [run for run in runs if not run.is_finished()]
        check_data(runs, waiting)
        before = len(runs) - len(waiting)
        print(f"{len(grid.cells)} cells, {len(runs)} runs, {before} finished before")
        check_free(waiting)
        engine = ENGINES[options.engine](output, options=options.slurm, jobs=options.jobs)
        execute(waiting, jobs=options.jobs, engine=engine)
        title = f"Ablation of {options.grid.stem} on {dataset}"
        page = write_all(output, grid, runs, title=title)
        print(f"report: {page}, and {page.with_suffix('.html')} for a browser")
    finally:
        claim.release()
    failed = [run for run in runs if not run.is_finished()]
    for run in failed:
        print(f"failed: {run.cell}, seed {run.seed}: {run.failure()}", file=sys.stderr)
    if failed:
        sys.exit(1)


def _check(options: Options) -> None:
    for flag, value in (("seeds", options.seeds), ("jobs", options.jobs)):
        if value < 1:
            raise UserError(f"--{flag} {value} is out of range; give a number of 1 or more.")
    run = options.training.run
    if options.training.recipe.from_run is not None:
        raise UserError("--from is for one run; name a cell of the grid with from: in another one.")
    for flag, given in (("resume", run.resume is not None), ("dry-run", run.dry_run)):
        if given:
            raise UserError(
                f"--{flag} is for one run; leave it out, as every run of a grid has its folder "
                "in --output, where a stopped grid goes on."
            )
