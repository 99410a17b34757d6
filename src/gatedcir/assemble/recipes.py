"""Config -> training triplets as the recipes want them, and what they say about themselves."""

from collections.abc import Sequence
from dataclasses import dataclass

from gatedcir.benchmarks.load import check_caption
from gatedcir.data.extra import read_extra
from gatedcir.data.noise import shuffled, shuffled_count
from gatedcir.data.triplets import Split, Triplet
from gatedcir.files import digest
from gatedcir.options.config import Config
from gatedcir.options.recipe_config import STAGE_OF, RecipeConfig

CAPTIONS = "extra captions "  # begins the name of a fingerprint, and a file's path ends it


@dataclass(frozen=True)
class Prepared:
    """What a run trains on."""

    triplets: list[Triplet]
    weights: list[float] | None
    """Of each triplet. None if all of them are 1."""
    remarks: list[str]
    """Lines for every report of the run, on the recipes that it uses."""
    fingerprints: dict[str, str]
    """Of files next to the data set."""


def prepare(config: Config, splits: Sequence[Split]) -> Prepared:
    """The training triplets of all recipes.

    Raises:
        UserError: a file of further captions is missing, damaged, or for other images. A caption
            is no modification sentence.
    """
    recipe = config.recipe
    own = [triplet for split in splits for triplet in split.triplets]
    triplets = shuffled(own, recipe.noise, seed=config.optim.seed)
    weights, lines = None, []
    if recipe.loss != "itc":
        lines.append(f"--loss {recipe.loss}")
    if recipe.noise > 0:
        lines.append(
            f"the targets of {shuffled_count(len(own), recipe.noise)} of {len(own)} training "
            f"triplets are shuffled on purpose (--noise {recipe.noise})"
        )
    if recipe.extra_captions:
        images = {name for split in splits for name in split.paths}
        extra = read_extra(recipe.extra_captions, images)
        for triplet in extra.triplets:
            for caption in triplet.captions:
                check_caption(caption, where=f"the further triplet {triplet.query_id}")
        triplets = triplets + extra.triplets
        weights = [1.0] * len(own) + [recipe.extra_weight * share for share in extra.shares]
        files = ", ".join(file.name for file in recipe.extra_captions)
        left = f", {extra.left_out} with other images are left out" * bool(extra.left_out)
        lines.append(
            f"{len(extra.triplets)} further triplets of {extra.entries} entries with the weight "
            f"{recipe.extra_weight} from {files}{left} (--extra-captions)"
        )
    if recipe.ema > 0:
        lines.append(f"--ema {recipe.ema}: the averages count where they validate better")
    if recipe.stage != "whole":
        lines.append(", ".join([*_stage(config), f"from {config.backbone.backbone}"]))
    seen = {f"{CAPTIONS}{file}": digest(file) for file in recipe.extra_captions}
    return Prepared(triplets, weights, lines, seen)


def _stage(config: Config) -> list[str]:
    """The stage of a run, and its options that are not the default."""
    recipe, default = config.recipe, RecipeConfig()
    found = [f"--stage {recipe.stage}"]
    branch = config.model.query_branch
    if recipe.stage == "bank" and branch != "second":
        found.append(f"--model.query-branch {branch}")
    for name, stage in STAGE_OF.items():
        value = getattr(recipe, name)
        if stage == recipe.stage and value != getattr(default, name):
            found.append(f"--{name.replace('_', '-')} {value}")
    return found
