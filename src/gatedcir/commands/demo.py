"""Everything once, on a bare machine: draw data, fine-tune, compare, draw gate maps."""

import shutil
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

if TYPE_CHECKING:
    from torch import Tensor

    from gatedcir.evaluation.evaluator import Evaluator
    from gatedcir.visual import Visual

# The same as configs/tiny.yaml, which an installed package does not have.
TRAINING = (
    "--backbone tiny --batch-size 64 --related 4 --learning-rate 1e-3 --save-training --save-best "
    "--model.gated-fusion.start identity"
).split()


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
    """Epochs of each of the two trainings."""
    num: int = 8
    """Gate maps to draw."""
    serve: bool = False
    """At the end, serve a page to search the demo's validation images with. Only in a terminal."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run all of it. Print one table and where the pictures are."""
    options = parse(Options, argv, description=COMMANDS["demo"])
    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.benchmarks.cirr import CIRR
    from gatedcir.commands import gates
    from gatedcir.evaluation.evaluator import validate
    from gatedcir.evaluation.report import format_table
    from gatedcir.run_folder import checkpoint

    start = time.perf_counter()
    folder = options.output / "cirr_dataset"
    _draw(options, folder)
    runs = _train(options, folder)
    data = DataConfig("CIRR", folder)
    pretrained, _ = open_evaluator(Path("tiny"), data, "val")
    evaluator, splits = open_evaluator(runs["gated"], data, "val")
    rankers = _single_input_rankers(evaluator, options.seed)
    rows = {
        "trained, gated fusion": checkpoint.load(runs["gated"]).metrics,
        "trained, no gating": checkpoint.load(runs["none"]).metrics,
        "not fine-tuned": validate(pretrained, splits),
        **{name: validate(evaluator, splits, encode) for name, encode in rankers.items()},
    }
    print(f"\n{splits[0].name}: {splits[0].protocol}\n")
    print(format_table(rows, CIRR.headings), "\n")
    maps = options.output / "gate_maps"
    shutil.rmtree(maps, ignore_errors=True)
    flags = ["--model-path", str(runs["gated"]), "--dataset", "CIRR", "--data-path", str(folder)]
    gates.main([*flags, "--num", str(options.num), "--output", str(maps)])
    print(f"\nruns: {', '.join(map(str, runs.values()))}; gate maps: {maps}")
    print(f"done in {time.perf_counter() - start:.0f} s")
    if options.serve and sys.stdout.isatty():
        from gatedcir.commands import serve

        flags = ["--model-path", str(runs["gated"]), "--images", str(folder / "dev")]
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


def training(options: Options, folder: Path, strategy: str) -> Config:
    """The options of the run with one strategy."""
    epochs = str(options.num_epochs)
    flags = ["--dataset", "CIRR", "--data-path", str(folder), *TRAINING]
    flags += ["--num-epochs", epochs, "--validation-frequency", epochs]
    flags += ["--seed", str(options.seed), "--output", str(options.output / f"run_{strategy}")]
    # Both runs and all later steps use the features of one pass through the vision tower.
    flags += ["--cache-features", str(options.output / "features")]
    return parse(Config, [*flags, "--model.gated-fusion.strategy", strategy], description="")


def _train(options: Options, folder: Path) -> dict[str, Path]:
    """Fine-tune with gated fusion and without it, at the same time. Returns the runs' folders.

    Two small trainings on half of the cores each are faster than one after the other on all cores.
    """
    from gatedcir.ablation.runs import ERRORS, OUTPUT, Run, execute

    strategies = ("gated", "none")
    runs = [Run(one, options.seed, training(options, folder, one)) for one in strategies]
    print(f"fine-tuning twice; {runs[0].path / ERRORS} shows every step")
    execute(runs, jobs=len(runs))
    for run in runs:
        if reason := run.failure():
            # Leave out the way out: it names flags of training, which this command does not have.
            why = reason.removeprefix("error: ").partition(";")[0].rstrip(".")
            raise UserError(f"the run {run.path} failed ({why}); its {ERRORS} says more.")
        print((run.path / OUTPUT).read_text(encoding="utf-8"))
    return {run.cell: run.path for run in runs}


def _single_input_rankers(evaluator: "Evaluator", seed: int) -> dict:
    """Rankers that see only one half of the query, or nothing of it.

    image-only: the mean of the reference's target features. text-only: the text branch that the
    prompt loss trains. Both are features of the trained model. random: a random direction.
    """
    import torch
    import torch.nn.functional as F

    model, generator = evaluator.model, torch.Generator().manual_seed(seed)

    def image_only(images: "Visual", texts: list[str]) -> "Tensor":
        return F.normalize(model.encode_target(images).mean(1), dim=-1)

    def text_only(images: "Visual", texts: list[str]) -> "Tensor":
        return model.encode_text(evaluator.tokenizer(texts).to(evaluator.device))

    def at_random(images: "Visual", texts: list[str]) -> "Tensor":
        return torch.randn(len(texts), model.embedding_width, generator=generator)

    return {"image-only": image_only, "text-only": text_only, "random": at_random}
