"""Options of recipes that can be parsed but make no sense, alone or together."""

from gatedcir.errors import UserError
from gatedcir.options.config import Config
from gatedcir.options.recipe_config import STAGE_OF, RecipeConfig

_UNTRAINED = ("tiny", "pretrain", "coco", "pretrain_vitL")


def check_recipe(config: Config) -> None:
    """Refuse options of recipes that have no effect, and a stage that cannot start."""
    recipe, default = config.recipe, RecipeConfig()
    if recipe.ema > 0 and not config.run.validates:
        raise UserError(
            f"--ema {recipe.ema} needs a validation to show whether it helps; leave "
            "--validation-frequency 0 out."
        )
    # A run that goes on may find its start in another place.
    named = None if config.run.resume is not None else recipe.from_run
    if named is not None and config.backbone.backbone != str(named):
        raise UserError(
            f"--from {named} takes that run's weights, and --backbone "
            f"{config.backbone.backbone} names others; leave one of them out (--config may hold "
            "the latter)."
        )
    if not recipe.extra_captions and recipe.extra_weight != default.extra_weight:
        raise UserError(
            f"--extra-weight {recipe.extra_weight} has no triplets to weigh; name a file with "
            "--extra-captions."
        )
    for name, stage in STAGE_OF.items():
        if recipe.stage != stage and getattr(recipe, name) != getattr(default, name):
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} belongs to --stage {stage}; pass that, or leave it out.")
    if recipe.stage != "whole":
        _check_stage(config)


def _check_stage(config: Config) -> None:
    recipe = config.recipe
    for flag, given in (
        ("dry-run", config.run.dry_run),
        ("compile", config.run.compile),
        ("train-vision", config.backbone.train_vision),
        ("extra-captions", recipe.stage == "rerank" and bool(recipe.extra_captions)),
    ):
        if given:
            raise UserError(
                f"--{flag} does not go with --stage {recipe.stage}, which trains a small part; "
                "leave it out."
            )
    if config.backbone.backbone in _UNTRAINED:
        raise UserError(
            f"--stage {recipe.stage} goes on with a trained model; name its run with --from RUN."
        )
    if recipe.stage != "rerank":
        return
    if config.model.matcher == "none":
        way = "name the run with --from RUN, or" if recipe.from_run is None else "leave it out, or"
        raise UserError(
            f"--stage rerank has no matcher to train with --model.matcher none; {way} pass "
            "--model.matcher itm."
        )
    if recipe.rerank == 0:
        raise UserError(
            "--stage rerank draws wrong images from the first ones of a search, and --rerank 0 "
            "leaves none; leave it out."
        )
    if recipe.rerank < recipe.rerank_negatives:
        raise UserError(
            f"--rerank-negatives {recipe.rerank_negatives} are more than the --rerank "
            f"{recipe.rerank} images that they are drawn from; give fewer."
        )
