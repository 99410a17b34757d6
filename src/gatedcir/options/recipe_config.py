"""The options of the recipes: what is done to the triplets, the loss and the weights of a run."""

from dataclasses import dataclass
from typing import Annotated, Literal

from gatedcir.options.command_line import Range


@dataclass(frozen=True)
class RecipeConfig:
    """Ways to a better number that stand next to the model's own options."""

    loss: Literal["itc", "rcl"] = "itc"
    """Form of the contrastive terms. itc: cross-entropy, as published. rcl: the robust
    complementary loss, which trusts no single triplet. The temperature then stays at 0.01 or more.
    """
    noise: Annotated[float, Range(0, below=1)] = 0.0
    """Share of the training triplets whose targets are exchanged among them, by --seed. It shows
    what a recipe is worth on bad data. Every report says so."""
