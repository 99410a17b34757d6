"""Config or checkpoint -> the vision towers of single scales, and the checks of all towers."""

from collections.abc import Mapping
from typing import Any

from gatedcir.errors import UserError
from gatedcir.models.backbone import Backbone
from gatedcir.models.scale_towers import KEY, ScaleTowers
from gatedcir.models.tower import VisionTower
from gatedcir.models.weights.sources import load
from gatedcir.models.weights.tower import names_of
from gatedcir.options.config import Config
from gatedcir.processes import say

SAME = "same"  # names the tower of --backbone
_MOST_TOKENS = 2**16  # of an image at all scales. Attention takes memory with their square.


def named_towers(config: Config, backbone: Backbone) -> ScaleTowers:
    """The towers that `--model.scale-backbones` names, with their weights.

    A scale that names the weights of --backbone, or "same", shares its tower. Scales that name the
    same other weights share a tower too.

    Raises:
        UserError: as `load`.
    """
    others, places = tower_names(config)
    towers = []
    for name in others:
        try:
            found = load(name)
        except UserError as error:
            raise UserError(f"--model.scale-backbones {name}: {error}") from None
        say(f"vision tower: {found.description}")
        tower = VisionTower(found.backbone.vision_model, found.backbone.vision_config)
        tower.sources = (*names_of(name), *found.backbone.sources)
        towers.append(tower)
    return ScaleTowers(towers, places, width=backbone.vision_width)


def tower_names(config: Config) -> tuple[list[str], dict[float, int]]:
    """Names of the towers other than that of --backbone, and which of them reads which scale."""
    names = config.model.scale_backbones or ()
    own = (SAME, config.backbone.backbone)
    others = [name for name in dict.fromkeys(names) if name not in own]
    pairs = zip(config.model.visual_scales, names, strict=False)
    return others, {scale: others.index(name) for scale, name in pairs if name in others}


def saved_towers(sizes: Mapping[str, Any], backbone: Backbone) -> ScaleTowers:
    """Towers of a checkpoint's sizes. Their weights are still to be loaded."""
    if KEY not in sizes:
        return ScaleTowers()
    towers = []
    for vision in sizes[KEY]["vision"]:
        empty = Backbone.without_weights({"vision_config": vision})
        towers.append(VisionTower(empty.vision_model.to_empty(device="cpu"), empty.vision_config))
    # JSON has no numbers as keys.
    places = {float(scale): place for scale, place in sizes[KEY]["places"].items()}
    return ScaleTowers(towers, places, width=backbone.vision_width)


def set_up_towers(backbone: Backbone, others: ScaleTowers, config: Config) -> None:
    """Freeze or train all towers, and check that they have the layers and not too many tokens.

    Raises:
        ValueError: they do not.
    """
    options, scales = config.backbone, config.model.visual_scales
    backbone.set_trainable(vision=options.train_vision)
    for tower in others.towers:
        assert isinstance(tower, VisionTower)
        tower.set_trainable(vision=options.train_vision)
    used = [others.tower(scale, backbone) for scale in scales]
    for tower in used:
        tower.recompute = options.gradient_checkpointing
        tower.check_layers(config.model.visual_layers)
    if backbone not in used:
        backbone.vision_model.requires_grad_(False)  # its last LayerNorm too
    patches = {s: t.vision_config.patch_size for s, t in zip(scales, used, strict=True)}
    check_tokens(backbone.image_size, patches)


def check_tokens(image_size: int, patches: Mapping[float, int]) -> None:
    """ValueError if an image would make too many visual tokens, before memory is asked for.

    Args:
        image_size: in pixels.
        patches: the size of a patch at each scale.
    """
    sides = [image_size / patch * scale for scale, patch in patches.items()]
    tokens = sum(side * side for side in sides)
    if tokens > _MOST_TOKENS:
        raise ValueError(
            f"{image_size} makes {tokens:,.0f} visual tokens of an image, more than {_MOST_TOKENS}"
        )
