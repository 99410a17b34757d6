"""Config -> model: its weights, and the fusions in front of the Q-Former."""

import re
from typing import Any

import torch
from torch import Tensor

from gatedcir.assemble.towers import check_tokens, named_towers, saved_towers, set_up_towers
from gatedcir.benchmarks.registry import BENCHMARKS
from gatedcir.errors import UserError
from gatedcir.models.backbone import Backbone
from gatedcir.models.gated_fusion.own import check_own
from gatedcir.models.gated_fusion.strategies import STRATEGIES, make_fusion
from gatedcir.models.gated_fusion.survival import Survival
from gatedcir.models.matcher import Matcher
from gatedcir.models.query_branch import QueryBranch
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.scale_towers import ScaleTowers
from gatedcir.models.text import Tokenizer
from gatedcir.models.visual_fusion.fusion import VisualFusion
from gatedcir.models.visual_fusion.neck_args import read_neck_args
from gatedcir.models.weights.names import ADDED, BACKBONE, mismatch
from gatedcir.models.weights.sources import Pretrained, from_run, load
from gatedcir.models.weights.tower import names_of
from gatedcir.multiscale.scale_sizes import warn_of_equal_sizes
from gatedcir.options.command_line import by_name
from gatedcir.options.config import BackboneConfig, Config, DataConfig, TransformConfig
from gatedcir.options.model_config import GatedFusionConfig, ModelConfig
from gatedcir.options.parsing import from_dict, to_dict
from gatedcir.plugins import is_ours
from gatedcir.processes import say
from gatedcir.run_folder.checkpoint import Checkpoint

_NEEDED = {"model", "dataset", *to_dict(TransformConfig())}  # options that evaluation needs


def build(config: Config) -> tuple[ComposedRetriever, Tokenizer]:
    """The model that a config names, on the CPU, and its tokenizer.

    Prompts and temperature are loaded from the weights' source too. The fusion is also loaded if it
    is of the same kind as the config's.

    Raises:
        UserError: the backbone's weights are not available, or not for the image size asked for.
    """
    found = load(config.backbone.backbone)
    say(f"weights: {found.description}")
    resize(found.backbone, config.backbone.image_size)
    torch.manual_seed(config.optim.seed)
    found.backbone.sources = (*names_of(config.backbone.backbone), *found.backbone.sources)
    model = assemble(found.backbone, config, named_towers(config, found.backbone))
    taken = _own_that_fits(_of_same_towers(found, config), model)
    if found.own:
        names = found.own.keys() - taken.keys()
        whole = r"^(scale_towers|query_branch|matcher)\..*"
        left = ", ".join(sorted({re.sub(whole, r"\1", name) for name in names}))
        say("prompts, temperature and fusion are taken along" + (f", but not {left}" * bool(left)))
    model.load_state_dict(taken, strict=False)
    return model, Tokenizer(found.wordpieces)


def open_trained(name: str) -> tuple[ComposedRetriever, Tokenizer, Config]:
    """The model of a run or of other weights, as it is, its tokenizer and config.

    Weights of other projects make the published baseline: no fusion, targetpad 1.25. If they have
    no prompts, as those of BLIP-2, the prompts are random. Queries do not depend on these.

    Raises:
        UserError: as `sources.load` and `restore`.
    """
    return trained_model(load(name), name)


def trained_model(found: Pretrained, name: str) -> tuple[ComposedRetriever, Tokenizer, Config]:
    """The same as `open_trained`, for weights that `sources.load` found by this name.

    Raises:
        UserError: as `restore`.
    """
    if found.run is not None:
        return _restore(found, found.run)
    config = Config(
        data=DataConfig("CIRR"),
        backbone=BackboneConfig(backbone=name),
        model=ModelConfig(gated_fusion=GatedFusionConfig(strategy="none")),
    )
    torch.manual_seed(config.optim.seed)
    model = assemble(found.backbone, config, ScaleTowers())
    model.load_state_dict(found.own, strict=False)
    return model.eval(), Tokenizer(found.wordpieces), config


def restore(checkpoint: Checkpoint) -> tuple[ComposedRetriever, Tokenizer, Config]:
    """The model, tokenizer and config of a checkpoint. Only towers that it names are read too.

    Raises:
        UserError: the weights do not fit the checkpoint's own config, or a tower is nowhere.
    """
    return _restore(from_run(checkpoint, "the checkpoint"), checkpoint)


def _restore(
    found: Pretrained, checkpoint: Checkpoint
) -> tuple[ComposedRetriever, Tokenizer, Config]:
    config = _config_in(checkpoint)
    towers = saved_towers(checkpoint.backbone, found.backbone)
    model = assemble(found.backbone, config, towers)
    expected = {n: w for n, w in model.state_dict().items() if not n.startswith(BACKBONE)}
    if wrong := mismatch(found.own, expected):
        raise UserError(
            f"the checkpoint's weights do not fit its own config: {wrong}; copy it again."
        )
    model.load_state_dict(found.own, strict=False)
    model.single_scale = 0 < checkpoint.epoch <= config.optim.scale_warmup_epochs
    return model.eval(), Tokenizer(found.wordpieces), config


def _writer(provenance: dict[str, Any]) -> str:
    """The version that wrote a checkpoint, if it is known."""
    revision, versions = provenance.get("git", "unknown"), provenance.get("versions", {})
    if revision != "unknown":
        return f"the revision that wrote it, {revision}"
    version = f", version {versions['gatedcir']}" if "gatedcir" in versions else ""
    return f"the gatedcir that wrote it{version}"


def check_opens_again(config: Config) -> None:
    """UserError if a checkpoint of a run with these options could not be opened."""
    name = config.model.gated_fusion.strategy
    if name in STRATEGIES and not STRATEGIES[name].path.startswith("gatedcir."):
        raise _not_again(
            f"the fusion strategy {name} is registered in this process only",
            f"name it by its path, --model.gated-fusion.strategy {STRATEGIES[name].path}",
        )
    dataset = config.data.dataset
    if dataset in BENCHMARKS and not is_ours(BENCHMARKS[dataset].read):
        raise _not_again(
            f"the data set {dataset} is registered in this process only",
            "name it by a path, such as --dataset my_file:MyData",
        )
    try:
        from_dict(Config, to_dict(config))
    except UserError as error:
        what, _, way_out = str(error).partition("; ")
        raise _not_again(what, way_out.removesuffix(".")) from None


def _not_again(what: str, way_out: str) -> UserError:
    return UserError(
        f"{what}, so that a checkpoint of this run could not be opened again; {way_out}."
    )


def _config_in(checkpoint: Checkpoint) -> Config:
    """A checkpoint's config, maybe of another version.

    Training options that this version does not know are left out with a message.

    Raises:
        UserError: this version does not know an option of the model or of its input.
    """
    try:
        return from_dict(Config, checkpoint.config)
    except UserError:
        pass
    names = by_name(Config)
    trained_with = checkpoint.config.keys() - _NEEDED
    unknown = {name for name in trained_with if f"--{name}" not in names}
    found = {name: value for name, value in checkpoint.config.items() if name not in unknown}
    dataset = {"dataset": found["dataset"]}
    needed = {name: value for name, value in found.items() if name in _NEEDED}
    if _refusal(found) and not _refusal(dataset | needed):
        # It is the value of an option of training, which takes a look at each.
        unknown |= {n for n in trained_with - unknown if _refusal({**dataset, n: found[n]})}
        found = {name: value for name, value in found.items() if name not in unknown}
    if reason := _refusal(found):
        own = "register that strategy again as its training did, or " * (
            "gated-fusion.strategy" in reason
        )
        raise UserError(
            f"the checkpoint's model has an option that this version does not know ({reason}); "
            f"{own}use {_writer(checkpoint.provenance)}."
        )
    listed = ", ".join(f"--{name}" for name in sorted(unknown))
    say(f"options of training that this version does not know are left out: {listed}")
    return from_dict(Config, found)


def _refusal(values: dict[str, Any]) -> str:
    """The fault in some options, in words. Empty if there is none."""
    try:
        from_dict(Config, values)
    except UserError as error:
        return str(error).partition("; ")[0]
    return ""


def assemble(backbone: Backbone, config: Config, towers: ScaleTowers) -> ComposedRetriever:
    """UserError if a tower does not have the layers, or if their fusion is missing."""
    options = config.model
    try:
        visual_fusion = VisualFusion(
            width=backbone.vision_width,
            num_layers=len(options.visual_layers),
            scales=options.visual_scales,
            scale_fusion=options.scale_fusion,
            layer_fusion=options.layer_fusion,
            neck=options.neck,
            start=options.visual_start,
            layer_weights=options.layer_weights,
            reduced=options.reduced_width,
            adaptive=options.adaptive_scales,
            neck_args=read_neck_args(options.neck, options.neck_args),
        )
        set_up_towers(backbone, towers, config)
    except ValueError as error:
        raise UserError(
            f"{error}; change --model.visual-layers or --model.visual-scales."
        ) from None
    if not towers.places:
        size = (backbone.image_size, backbone.image_size)
        warn_of_equal_sizes(options.visual_scales, size, backbone.vision_config.patch_size)
    loss = config.loss
    survival = None
    if loss.loss_gate > 0:
        try:
            base = towers.tower(1.0, backbone)
            base.check_layers(loss.gate_target_layers or options.visual_layers)
        except ValueError as error:
            raise UserError(f"{error}; change --gate-target-layers.") from None
        survival = Survival(
            loss.gate_target_layers or (), cut=loss.gate_target_cut, taught=loss.gate_target_for
        )
    text = options.gated_fusion
    width, text_width = backbone.vision_width, backbone.width
    fusion = make_fusion(
        text.strategy,
        width,
        text_width,
        alpha_init=text.alpha_init,
        dropout=text.dropout,
        start=text.start,
        blocks=text.blocks,
    )
    tokens = towers.tower(1.0, backbone).token_count(1.0, image_size=backbone.image_size)
    check_own(fusion, text.strategy, tokens=tokens, width=width, text_width=text_width)
    branch = options.query_branch
    return ComposedRetriever(
        backbone,
        query_branch=None if branch == "none" else QueryBranch(backbone, first=branch == "both"),
        matcher=None if options.matcher == "none" else Matcher(backbone),
        layers=options.visual_layers,
        scales=options.visual_scales,
        visual_fusion=visual_fusion,
        fusion=fusion,
        reads=text.reads,
        sequential=config.backbone.scales_sequential,
        each_scale=loss.reads_each_scale,
        survival=survival,
        scale_towers=towers,
    )


def _of_same_towers(found: Pretrained, config: Config) -> dict[str, Tensor]:
    """The run's own weights. Those of towers count only if the config names the same ones."""
    before = None if found.run is None else found.run.config["model"].get("scale-backbones")
    if before is not None and tuple(before) == config.model.scale_backbones:
        return found.own
    return {n: weight for n, weight in found.own.items() if not n.startswith("scale_towers.")}


def _own_that_fits(own: dict[str, Tensor], model: ComposedRetriever) -> dict[str, Tensor]:
    """Prompts and temperature, and each added part if the model's has the same weights."""
    taken = dict(own)
    for prefix in ADDED:
        found = {name: weight for name, weight in own.items() if name.startswith(prefix)}
        expected = {n: w for n, w in model.state_dict().items() if n.startswith(prefix)}
        if mismatch(found, expected):
            taken = {name: weight for name, weight in taken.items() if name not in found}
    return taken


def resize(backbone: Backbone, image_size: int | None) -> None:
    """Interpolate positions if the image size asked for differs from the weights' own."""
    old = backbone.image_size
    if image_size is None or image_size == old:
        return
    try:
        check_tokens(image_size, {1.0: backbone.vision_config.patch_size})
        backbone.resize(image_size)
    except ValueError as error:
        raise UserError(f"--image-size {error}; the weights' own is {old}.") from None
    say(f"positions are interpolated from {old} px to {image_size} px")
