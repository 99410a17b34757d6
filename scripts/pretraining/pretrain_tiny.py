"""Pretrain the embedded tiny BLIP-2 on captioned synthetic scenes and garments.

First, the vision tower learns to name the content of every place. Then the tower is frozen, and the
Q-Former learns to read captions: of single things, then of their places, then of whole pictures
among near-identical ones. It also learns the details of a caption that another picture lacks. With
whole pictures from the start, the model does not learn where things are. Only combinations of the
train split are shown. Writes a folder in the hub's layout. Takes under two hours on two CPU cores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatedcir.errors import check_new_folder, run_command
from gatedcir.options.parsing import parse


@dataclass
class Options:
    """Where to, and how much."""

    output: Path
    """Folder to write. It is written again after every lesson."""
    share: float = 1.0
    """Share of the steps and pictures of every lesson, for a trial."""
    seed: int = 0
    """Seed of weights and pictures."""


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, teach, save."""
    options = parse(Options, argv, description="Pretrain the embedded tiny BLIP-2.")
    if not (options.output / "pretraining.json").is_file():
        check_new_folder(options.output, "--output")
    from tiny_school import NAMING, READING, School

    school = School(options)
    school.teach_naming(NAMING)
    school.teach_reading(READING)


if __name__ == "__main__":
    run_command(main)
