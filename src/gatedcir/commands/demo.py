"""Everything once, on a bare machine: draw data, fine-tune, compare, draw gate maps."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gatedcir.commands.main import COMMANDS
from gatedcir.errors import UserError
from gatedcir.options.config import Config, DataConfig, TrainTriplets
from gatedcir.options.parsing import parse
from gatedcir.outputs import check_file_to_write, is_own

if TYPE_CHECKING:
    from torch import Tensor

    from gatedcir.ablation.runs import Run
    from gatedcir.evaluation.evaluator import Evaluator, QueryEncoder
    from gatedcir.visual import Visual

# The same as configs/tiny.yaml, which an installed package does not have.
TRAINING = (
    "--backbone tiny --batch-size 64 --related 4 --learning-rate 1e-3 --save-training --save-best "
    "--model.gated-fusion.start identity"
).split()
_STRATEGY = "--model.gated-fusion.strategy"
RUNS = {
    "gated": (_STRATEGY, "gated"),
    "none": (_STRATEGY, "none"),
    "taught": (_STRATEGY, "grounded", "--loss-gate", "10"),
}
"""What tells the trainings apart, by the last part of their folders' names."""


@dataclass(frozen=True)
class Options:
    """Where to, and how much."""

    output: Path = Path("demo")
    """Folder for data, runs and pictures. Data in it is used again, and runs are replaced."""
    seed: int = 0
    """Seed of data and training."""
    train: TrainTriplets = 28000
    val: int = 750
    """Validation triplets."""
    num_epochs: int = 1
    """Epochs of each of the three trainings."""
    num: int = 8
    """Gate maps to draw."""
    serve: bool = False
    """At the end, serve a page to search the demo's validation images with. Only in a terminal."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run all of it. Print one table and where the pictures are."""
    options = parse(Options, argv, description=COMMANDS["demo"])
    from gatedcir.ablation.runs import Run, check_are_runs
    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.benchmarks.cirr import CIRR
    from gatedcir.commands import gates, report
    from gatedcir.commands.evaluate import DataOfRun
    from gatedcir.evaluation.evaluator import validate
    from gatedcir.evaluation.report import format_table
    from gatedcir.run_folder import checkpoint

    start = time.perf_counter()
    folder, page = options.output / "cirr_dataset", options.output / "report.html"
    check_file_to_write(page, "--output", "page")
    waiting = [Run(name, options.seed, training(options, folder, name)) for name in RUNS]
    check_are_runs(waiting)
    _draw(options, folder)
    runs = _train(waiting)
    data = DataConfig("CIRR", folder)
    pretrained, _ = open_evaluator(Path("tiny"), data, "val")
    evaluator, splits = open_evaluator(runs["gated"], data, "val")
    rankers = _rankers(evaluator, options.seed)
    rows = {
        "trained, gate taught": checkpoint.load(runs["taught"]).metrics,
        "trained, gated fusion": checkpoint.load(runs["gated"]).metrics,
        "trained, no gating": checkpoint.load(runs["none"]).metrics,
        "not fine-tuned": validate(pretrained, splits),
        **{name: validate(evaluator, splits, encode) for name, encode in rankers.items()},
    }
    print(f"\n{splits[0].name}: {splits[0].protocol}\n")
    print(format_table(rows, CIRR.headings), "\n")
    maps = options.output / "gate_maps"
    for file in maps.glob("*.png"):
        if is_own(file, "picture"):  # of a demo before
            file.unlink()
    flags = ["--model-path", str(runs["taught"]), "--dataset", "CIRR", "--data-path", str(folder)]
    gates.main([*flags, "--num", str(options.num), "--output", str(maps)])
    shown = report.Options(
        tuple(runs.values()), page, data=DataOfRun("CIRR", folder), num=options.num
    )
    report.write(shown, title="gatedcir demo")
    print(f"\nruns: {', '.join(map(str, runs.values()))}; gate maps: {maps}; report: {page}")
    print(f"done in {time.perf_counter() - start:.0f} s")
    if options.serve and sys.stdout.isatty():
        from gatedcir.commands import serve

        flags = ["--model-path", str(runs["taught"]), "--images", str(folder / "dev")]
        serve.main([*flags, "--index", str(options.output / "photos.index")])


def _draw(options: Options, folder: Path) -> None:
    """The scenes, unless they are there."""
    from gatedcir.files import whole_folder
    from gatedcir.synthetic.layouts import write_cirr

    if folder.exists():
        print(f"using the scenes in {folder}, whatever the sizes asked for")
        return
    print("drawing scenes in CIRR's layout")
    sizes = {"train": options.train, "val": options.val, "test": 100}
    with whole_folder(folder) as unfinished:
        for line in write_cirr(unfinished, sizes, seed=options.seed):
            print(line)


def training(options: Options, folder: Path, name: str) -> Config:
    """The options of one of `RUNS`."""
    epochs = str(options.num_epochs)
    flags = ["--dataset", "CIRR", "--data-path", str(folder), *TRAINING]
    flags += ["--num-epochs", epochs, "--validation-frequency", epochs]
    flags += ["--seed", str(options.seed), "--output", str(options.output / f"run_{name}")]
    # All runs and all later steps use the features of one pass through the vision tower.
    flags += ["--cache-features", str(options.output / "features")]
    return parse(Config, [*flags, *RUNS[name]], description="")


def _train(runs: "Sequence[Run]") -> dict[str, Path]:
    """Fine-tune all of `RUNS` at the same time. Returns the runs' folders.

    Small trainings on a core each are faster than one after the other on all cores.
    """
    from gatedcir.ablation.runs import ERRORS, OUTPUT, execute

    print(f"fine-tuning {len(runs)} times; {runs[0].path / ERRORS} shows every step")
    execute(runs, jobs=len(runs))
    for run in runs:
        if reason := run.failure():
            # Leave out the way out: it names flags of training, which this command does not have.
            why = reason.removeprefix("error: ").partition(";")[0].rstrip(".")
            raise UserError(f"the run {run.path} failed ({why}); its {ERRORS} says more.")
        print((run.path / OUTPUT).read_text(encoding="utf-8"))
    return {run.cell: run.path for run in runs}


def _rankers(evaluator: "Evaluator", seed: int) -> "dict[str, QueryEncoder]":
    """Rankers that see only one half of the query, or nothing of it: a random direction."""
    import torch

    from gatedcir.evaluation.single_inputs import single_inputs

    generator = torch.Generator().manual_seed(seed)

    def at_random(images: "Visual", texts: list[str]) -> "Tensor":
        return torch.randn(len(texts), evaluator.model.embedding_width, generator=generator)

    return {**single_inputs(evaluator), "random": at_random}
