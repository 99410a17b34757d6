"""Options that can be parsed but make no sense, alone or together."""

import math
from pathlib import Path

from gatedcir.errors import UserError
from gatedcir.features.folder import check_parent
from gatedcir.models.gated_fusion.strategies import gives_gate, strategy
from gatedcir.multiscale.scale_sizes import check_scales
from gatedcir.options.config import BackboneConfig, Config, LossConfig, RunConfig
from gatedcir.options.model_config import ModelConfig
from gatedcir.options.parsing import check_numbers, several
from gatedcir.options.recipe_checks import check_recipe
from gatedcir.plugins import is_path


def check_ranges(config: Config) -> None:
    """Refuse numbers that no run can work with. UserError names the flag."""
    check_numbers(config)
    if config.optim.accumulate > config.optim.batch_size:
        raise UserError(
            f"--accumulate {config.optim.accumulate} leaves parts of a batch of "
            f"{config.optim.batch_size} empty; pass at most --batch-size."
        )
    size = config.backbone.image_size
    if size is not None and size < 1:
        raise UserError(f"--image-size {size} is out of range; give a number of 1 or more.")
    check_visual(config.model)
    check_recomputing(config.backbone, config.model.visual_scales)
    if is_path(name := config.model.gated_fusion.strategy):
        strategy(name)
    check_cache(config.run)
    check_scale_warmup(config)
    check_scales_alone(config.loss, config.model.visual_scales)
    check_teaching(config)
    check_recipe(config)
    if config.loss.loss_itm != 0:
        raise UserError(
            f"--loss-itm {config.loss.loss_itm} has nothing to weigh: "
            f"{config.backbone.blip_model_name} has no matching term; leave the flag out."
        )


def check_scale_warmup(config: Config) -> None:
    """Refuse a warm-up without other scales, or without an epoch after it."""
    epochs = config.optim.scale_warmup_epochs
    given = f"--scale-warmup-epochs {epochs}"
    if epochs > 0 and len(config.model.visual_scales) < 2:
        raise UserError(
            f"{given} has one scale only, with which all epochs train; name two or more with "
            "--model.visual-scales."
        )
    if epochs >= config.optim.num_epochs:
        raise UserError(
            f"{given} leaves no epoch of --num-epochs {config.optim.num_epochs} for all scales; "
            "give fewer."
        )


def check_scales_alone(options: LossConfig, scales: tuple[float, ...]) -> None:
    """Refuse losses of each scale alone where there is one scale, or weights of other scales."""
    weights = several(options.loss_scale)
    given = f"--loss-scale {' '.join(map(str, weights))}"
    if len(weights) > 1 and len(weights) != len(scales):
        raise UserError(
            f"{given} has {len(weights)} weights for --model.visual-scales "
            f"{' '.join(map(str, scales))}; give one number, or one a scale."
        )
    if options.reads_each_scale and len(scales) < 2:
        if options.loss_consistency > 0:
            given = f"--loss-consistency {options.loss_consistency}"
        raise UserError(
            f"{given} has one scale only, which the other losses contrast already; name two or "
            "more with --model.visual-scales."
        )


def check_teaching(config: Config) -> None:
    """Refuse to teach a gate that is not there, or the map of another triplet where none is."""
    loss, name = config.loss, config.model.gated_fusion.strategy
    if loss.loss_gate > 0 and not gives_gate(name):
        raise UserError(
            f"--loss-gate {loss.loss_gate} has no gate to teach in --model.gated-fusion.strategy "
            f"{name}; choose one with a gate (has_gate = True in a class of your own)."
        )
    if loss.gate_target == "shuffled" and config.optim.batch_size < 2:
        raise UserError(
            "--gate-target shuffled takes the map of another triplet of the batch; pass "
            "--batch-size 2 or more."
        )


def check_visual(options: ModelConfig) -> None:
    """Refuse layers and scales that no image has, several of them without a fusion, and a fusion
    of a single one.
    """
    layers = options.visual_layers
    if len(set(layers)) < len(layers):
        given = " ".join(map(str, layers))
        raise UserError(f"--model.visual-layers {given} names a layer twice; leave one out.")
    try:
        check_scales(options.visual_scales)
    except ValueError as error:
        raise UserError(f"{error}; change --model.visual-scales.") from None
    for flag, values, fusion_flag, fusion in (
        ("visual-layers", options.visual_layers, "layer-fusion", options.layer_fusion),
        ("visual-scales", options.visual_scales, "scale-fusion", options.scale_fusion),
    ):
        given = f"--model.{flag} {' '.join(map(str, values))}"
        if len(values) > 1 and fusion == "none":
            raise UserError(f"{given} needs a way to fuse them; choose --model.{fusion_flag}.")
        if len(values) < 2 and fusion != "none":
            raise UserError(
                f"--model.{fusion_flag} {fusion} has nothing to fuse in {given}; name two or more."
            )
    check_scale_backbones(options)
    if options.adaptive_scales and len(options.visual_scales) < 2:
        raise UserError(
            "--model.adaptive-scales has one scale only, which every image needs; name two or more "
            "with --model.visual-scales."
        )
    check_layer_weights(options)
    from gatedcir.models.visual_fusion.neck_args import read_neck_args  # torch is slow to import

    try:
        read_neck_args(options.neck, options.neck_args)
    except ValueError as error:
        raise UserError(f"{error}; change --model.neck-args.") from None


def check_scale_backbones(options: ModelConfig) -> None:
    """Refuse towers of scales where there is one scale, or another number of scales."""
    names, scales = options.scale_backbones, options.visual_scales
    if names is None:
        return
    given = f"--model.scale-backbones {' '.join(names)}"
    if len(scales) < 2:
        raise UserError(
            f"{given} has one scale only, whose tower is that of --backbone; name two or more with "
            "--model.visual-scales, or leave it out."
        )
    if len(names) != len(scales):
        raise UserError(
            f"{given} has {len(names)} names for --model.visual-scales "
            f"{' '.join(map(str, scales))}; give one a scale."
        )


def check_layer_weights(options: ModelConfig) -> None:
    """Refuse weights of layers where no option reads them, or as many as there are no layers."""
    weights, layers = options.layer_weights, options.visual_layers
    if weights is None:
        return
    given = f"--model.layer-weights {' '.join(map(str, weights))}"
    if options.layer_fusion != "fixed-sum":
        raise UserError(
            f"{given} has no effect on --model.layer-fusion {options.layer_fusion}; choose "
            "fixed-sum, or leave the weights out."
        )
    if len(weights) != len(layers) or not all(map(math.isfinite, weights)):
        raise UserError(
            f"{given} does not fit --model.visual-layers {' '.join(map(str, layers))}; give one "
            "finite number a layer."
        )


def check_recomputing(options: BackboneConfig, scales: tuple[float, ...]) -> None:
    """Refuse to save the memory of a tower that keeps nothing."""
    for flag, given in (
        ("gradient-checkpointing", options.gradient_checkpointing),
        ("scales-sequential", options.scales_sequential),
    ):
        if given and not options.train_vision:
            raise UserError(
                f"--{flag} has nothing to save in a frozen tower; pass --train-vision, or leave it "
                "out."
            )
    if options.scales_sequential and len(scales) < 2:
        raise UserError(
            "--scales-sequential has one scale only; name two or more with --model.visual-scales, "
            "or leave it out."
        )


def check_cache(options: RunConfig) -> None:
    """Refuse a folder of other things, and to read features from a place that keeps none."""
    if isinstance(options.cache_features, Path):
        check_parent(options.cache_features)
    if options.cache_device == "disk" and isinstance(options.cache_features, str):
        raise UserError(
            f"--cache-device disk needs a folder, not --cache-features {options.cache_features}; "
            "name one."
        )


def check_negatives(batch_size: int, processes: int) -> None:
    """UserError if the batches of all processes together hold only one triplet."""
    if batch_size * processes < 2:
        raise UserError(
            f"a batch of {batch_size} has no negatives to contrast with; pass --batch-size 2 or "
            "more."
        )


def check_batch(config: Config, triplets: int, processes: int) -> None:
    """UserError where a batch of all processes has no negatives, or is more than there is.

    A later stage compares with images of all training triplets, so its batches need none.
    """
    batch_size = config.optim.batch_size
    if config.recipe.stage == "whole":
        check_negatives(batch_size, processes)
    if triplets < batch_size * processes:
        raise UserError(
            f"the training split has {triplets} triplets, fewer than one batch of "
            f"{batch_size * processes}; lower --batch-size."
        )
