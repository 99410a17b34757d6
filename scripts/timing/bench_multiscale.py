"""The design document's figures of the MultiScaleInputProcessor next to measured ones.

Parameters and activations are counted without computing anything: the activations are those that
training keeps for the backward pass, at the document's batch and size. Inference is timed here.
Recomputed activations count only while their part is computed again, so not in this sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gatedcir.errors import run_command
from gatedcir.options.config import Device
from gatedcir.options.parsing import parse


@dataclass(frozen=True)
class Options:
    """What is measured."""

    backbone: str = "pvt_v2_b2"
    """A name of `create_backbone`."""
    size: int = 352
    """Side of the images whose activations are counted."""
    batch_size: int = 4
    """How many of them."""
    sides: tuple[int, ...] = (256, 352, 416)
    """Sides of the images that are timed, one at a time."""
    repeats: int = 3
    """Timed passes of each kind, after one that is not timed. The shortest counts."""
    device: Device = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    """Count, time, and print the tables."""
    options = parse(Options, argv, description="Measure the processor of several input scales.")
    from multiscale_costs import report

    report(options)


if __name__ == "__main__":
    run_command(main)
