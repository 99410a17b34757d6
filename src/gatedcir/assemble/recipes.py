"""Config -> training triplets as the recipes want them, and what they say about themselves."""

from collections.abc import Sequence

from gatedcir.data.noise import shuffled, shuffled_count
from gatedcir.data.triplets import Split, Triplet
from gatedcir.options.config import Config

KEY = "recipes"  # of a run's provenance


def training_triplets(config: Config, splits: Sequence[Split]) -> list[Triplet]:
    """The triplets to train on."""
    triplets = [triplet for split in splits for triplet in split.triplets]
    return shuffled(triplets, config.recipe.noise, seed=config.optim.seed)


def remarks(config: Config, splits: Sequence[Split]) -> list[str]:
    """Lines for every report of a run, on the recipes that it uses."""
    recipe = config.recipe
    total = sum(len(split.triplets) for split in splits)
    lines = []
    if recipe.loss != "itc":
        lines.append(f"--loss {recipe.loss}")
    if recipe.noise > 0:
        lines.append(
            f"the targets of {shuffled_count(total, recipe.noise)} of {total} training triplets "
            f"are shuffled on purpose (--noise {recipe.noise})"
        )
    if recipe.ema > 0:
        lines.append(f"--ema {recipe.ema}, where the averages validate better")
    if recipe.stage != "whole":
        lines.append(f"--stage {recipe.stage}, from {config.backbone.backbone}")
    return lines
