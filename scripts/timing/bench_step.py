"""Time, arithmetic and memory of a training step, against the step of the published trainer.

The published step sends references and targets through the frozen vision tower every time. It pads
every text to 32 tokens and computes all of them in every layer, in float32 with attention written
out. It updates weight by weight. All steps train the same model on random data in the real shapes.
Peak memory is that of the process so far, except on a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from gatedcir.errors import run_command
from gatedcir.options.config import Config, DataConfig
from gatedcir.options.model_config import GatedFusionConfig, ModelConfig
from gatedcir.options.parsing import parse


def _published() -> Config:
    """The published model on the embedded backbone, batch of 64."""
    fusion = GatedFusionConfig(strategy="none")
    return Config(data=DataConfig("CIRR"), model=ModelConfig(gated_fusion=fusion))


@dataclass(frozen=True)
class Options:
    """What is measured."""

    training: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=_published)
    """As for training, but without gated fusion by default. No dataset is read."""
    repeats: int = 3
    """Timed steps of each kind, after one that is not timed. The shortest counts."""
    profile: bool = False
    """Also say where the time of this project's step goes, by kind of work."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the steps and print the table."""
    options = parse(Options, argv, description="Time a training step against the published one.")
    from step_times import report

    report(options)


if __name__ == "__main__":
    run_command(main)
