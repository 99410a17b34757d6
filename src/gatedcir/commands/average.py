"""Average the weights of several runs: parse, load, compare, write."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from gatedcir.commands.evaluate import DataOfRun
from gatedcir.commands.main import COMMANDS
from gatedcir.errors import UserError, check_new_folder
from gatedcir.options.changes import changed_flags
from gatedcir.options.config import Device, NewFolder, TransformConfig
from gatedcir.options.parsing import parse, to_dict


@dataclass(frozen=True)
class Options:
    """Which runs, and where the mean goes."""

    runs: tuple[Path, ...]
    """The runs, two or more. They may stand first, without the flag."""
    output: NewFolder
    data: Annotated[DataOfRun, tyro.conf.arg(name="")] = field(default_factory=DataOfRun)
    device: Device = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the mean of runs. With --dataset, only if it validates better than each of them."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words = ["--runs", *words]
    description = (
        f"{COMMANDS['average']} With --dataset it is written only if it validates better than each."
    )
    options = parse(Options, words, description=description)
    if len(options.runs) < 2:
        raise UserError(f"{options.runs[0]} alone has no mean; name two runs or more.")
    for path, count in Counter(path.resolve() for path in options.runs).items():
        if count > 1:
            raise UserError(f"{path} is named {count} times; name each run once.")
    check_new_folder(options.output, "--output")
    from gatedcir.run_folder import checkpoint, mixture

    loaded = [checkpoint.load(run) for run in options.runs]
    if any(run.tower_hashes != loaded[0].tower_hashes for run in loaded):
        from gatedcir.models.weights.sources import with_towers

        loaded = list(map(with_towers, loaded, options.runs))
    data = list(dict.fromkeys(str(run.config.get("dataset")) for run in loaded))
    if len(data) > 1:
        print(f"the runs were trained on {' and '.join(data)}; the mean counts as of {data[0]}")
    mean = mixture.mean_of(loaded, options.runs, changed=changed)
    if options.data.dataset is not None:
        from gatedcir.assemble.evaluator import open_evaluator
        from gatedcir.evaluation.evaluator import validate
        from gatedcir.models.weights.sources import from_run

        scores = []
        for run, name in zip([*loaded, mean], [*options.runs, options.output], strict=True):
            found = from_run(run, name)
            evaluator, splits = open_evaluator(
                name, options.data, "val", device=options.device, found=found
            )
            headline = evaluator.benchmark.headline
            scores.append(validate(evaluator, splits)[headline])
            print(f"{scores[-1]:6.2f}  {headline}  {'mean' if run is mean else name}")
        if scores[-1] <= max(scores[:-1]):
            raise UserError(
                f"the mean does not help ({scores[-1]:.2f}, and {max(scores[:-1]):.2f} without "
                "it), and is not written; leave --dataset out to write it all the same."
            )
    mixture.write(mean, options.output)
    print(f"run: {options.output}")


def changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """The options of model and transform in which two runs differ.

    A run of an earlier version lacks some. Their defaults count.
    """
    alike = ("model", *to_dict(TransformConfig()))
    one, other = ({name: each[name] for name in alike if name in each} for each in (one, other))
    return changed_flags(dict(one), dict(other))
