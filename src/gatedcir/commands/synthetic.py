"""Draw a synthetic dataset in the published layout of CIRR or FashionIQ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gatedcir.commands.main import COMMANDS
from gatedcir.errors import UserError, check_new_folder
from gatedcir.files import whole_folder
from gatedcir.options.config import NewFolder, TrainTriplets
from gatedcir.options.parsing import parse


@dataclass(frozen=True)
class Options:
    """What to draw and where."""

    layout: Literal["cirr", "fashioniq"]
    """Published layout to imitate: scenes of shapes, or garments."""
    output: NewFolder
    seed: int = 0
    """The same seed gives the same bytes."""
    train: TrainTriplets = 8000
    val: int = 600
    """Validation triplets (for fashioniq, of each category)."""
    test: int = 600
    """Test triplets without published targets (for fashioniq, of each category)."""
    bystanders: int = 0
    """Further things in every scene (cirr) that no request changes, 0 to 4."""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the dataset and print its contents."""
    options = parse(Options, argv, description=COMMANDS["synthetic"])
    from gatedcir.synthetic.layouts import write_cirr, write_fashioniq

    check_new_folder(options.output, "--output")
    output = options.output.resolve()
    if options.bystanders and options.layout != "cirr":
        raise UserError("--bystanders are for scenes (--layout cirr); leave it out.")
    sizes = {"train": options.train, "val": options.val, "test": options.test}
    with whole_folder(output) as folder:
        if options.layout == "cirr":
            lines = write_cirr(folder, sizes, seed=options.seed, bystanders=options.bystanders)
        else:
            lines = write_fashioniq(folder, sizes, seed=options.seed)
        for line in lines:
            print(line)
