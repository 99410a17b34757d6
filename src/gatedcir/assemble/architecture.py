"""Config and model -> the parts of its picture, with shapes and parameters.

Shapes: B batch, L visual tokens, N layers, Q query tokens, T text tokens, D Q-Former width, Dv
vision width, E embedding width.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from gatedcir.assemble.model import assemble, resize
from gatedcir.assemble.towers import tower_names
from gatedcir.models.backbone import Backbone
from gatedcir.models.gated_fusion.strategies import STRATEGIES
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.scale_towers import ScaleTowers
from gatedcir.models.text import MAX_TOKENS
from gatedcir.models.tower import VisionTower
from gatedcir.models.weights.sources import sizes_of
from gatedcir.options.config import Config
from gatedcir.visualize.architecture import Part

_TEXT, _REFERENCE, _TARGET = range(3)  # columns


def outline(config: Config) -> ComposedRetriever:
    """The model of a config on the meta device: shapes without weights.

    Raises:
        UserError: as `build`, but published weights need not be there.
    """
    with torch.device("meta"):
        backbone = Backbone.without_weights(sizes_of(config.backbone.backbone))
        resize(backbone, config.backbone.image_size)
        others, places = tower_names(config)
        found = [Backbone.without_weights(sizes_of(name)) for name in others]
        towers = [VisionTower(one.vision_model, one.vision_config) for one in found]
        width = backbone.vision_width
        return assemble(backbone, config, ScaleTowers(towers, places, width=width))


def parts_of(config: Config, model: ComposedRetriever) -> list[Part]:
    """The parts of the picture, from images and text down to the losses."""
    seen = [*_seen(config, model)]
    row, last = len(seen), seen[-1].name
    return [*seen, *_text(config, model, row), *_query(config, model, row, last)]


def letters_of(config: Config, model: ComposedRetriever) -> dict[str, str]:
    """What the letters of the shapes mean, with their numbers."""
    backbone = model.backbone
    length, _ = model.level_shape(1.0)
    return {
        "B": f"batch ({config.optim.batch_size})",
        "L": f"visual tokens ({length} at scale 1.0)",
        "N": f"layers ({len(model.layers)})",
        "Q": f"query tokens ({backbone.num_query_tokens})",
        "T": f"text tokens (at most {MAX_TOKENS})",
        "D": f"width of the Q-Former ({backbone.width})",
        "Dv": f"width of the vision tower ({backbone.vision_width})",
        "E": f"width of the features ({model.embedding_width})",
    }


def _seen(config: Config, model: ComposedRetriever) -> Iterator[Part]:
    """From pixels to the one map of visual tokens. These parts are the same for all images."""
    options, size = config.model, model.backbone.image_size
    last, row = "images", 0

    def part(name: str, title: str, *lines: str, modules: Iterable[object], gives: str) -> Part:
        nonlocal last, row
        before, last, row = last, name, row + 1
        trained, frozen = _count(modules)
        return Part(
            name,
            title,
            lines,
            gives,
            trained,
            frozen,
            kind="trained" if trained else "frozen",
            row=row,
            column=_REFERENCE,
            span=2,
            reads=(before,),
        )

    yield Part(
        "images",
        "Images: references and targets",
        gives=f"[B, 3, {size}, {size}]",
        kind="data",
        column=_REFERENCE,
        span=2,
    )
    names = options.scale_backbones or [config.backbone.backbone] * len(model.scales)
    shapes = [
        f"scale {scale}: {name}, {len(model.tower(scale).vision_model.encoder.layers)} blocks, "
        f"[B, {length}, {width}]"
        for scale, name in zip(model.scales, names, strict=True)
        for length, width in [model.level_shape(scale)]
    ]
    yield part(
        "tower",
        "Vision tower" + "s" * (len(model.towers) > 1),
        *shapes,
        f"layers read: {' '.join(map(str, model.layers))}",
        modules=[module for tower in model.towers for module in tower.below_norm()],
        gives=_several(len(model.layers), len(model.scales)),
    )
    norms = [tower.vision_model.post_layernorm for tower in model.towers]
    yield part(
        "norm",
        "Last LayerNorm of the tower" + ", and projections" * bool(model.scale_towers.places),
        modules=[*norms, model.scale_towers.projections],
        gives=_several(len(model.layers), len(model.scales)),
    )
    stages = model.visual_fusion.stages
    if options.scale_fusion != "none":
        adaptive = ("chooses the scales that an image needs",) * options.adaptive_scales
        yield part(
            "scales",
            f"Scale fusion: {options.scale_fusion}",
            f"{len(model.scales)} scales become one, layer by layer",
            *adaptive,
            modules=[stages.scale_fusions, stages.selector],
            gives=_several(len(model.layers), 1),
        )
    if options.layer_fusion != "none":
        yield part(
            "layers",
            f"Layer fusion: {options.layer_fusion}",
            f"{len(model.layers)} layers become one",
            modules=[stages.layer_fusion],
            gives=_several(1, 1),
        )
    if options.neck != "none":
        arguments = " ".join(options.neck_args)
        yield part(
            "neck",
            f"Neck: {options.neck} {arguments}".strip(),
            modules=[stages.neck],
            gives=_several(1, 1),
        )
    gain = getattr(model.visual_fusion.fuse, "gain", None)
    if gain is not None:
        yield part(
            "start",
            "Start as the identity",
            "main layer at scale 1.0 + gain · fused map. The gain starts at zero.",
            modules=[gain],
            gives=_several(1, 1),
        )


def _several(layers: int, scales: int) -> str:
    """The shape of some maps of tokens."""
    return f"{layers * scales} x [B, L, Dv]" if layers * scales > 1 else "[B, L, Dv]"


def _text(config: Config, model: ComposedRetriever, row: int) -> Iterator[Part]:
    """The text, and what is made of it without the image."""
    options, backbone = config.model.gated_fusion, model.backbone
    trained, _ = _count([backbone.embeddings])
    yield Part("text", "Text: what to change", gives="[B, T]", kind="data", column=_TEXT)
    reads = options.strategy != "none" and options.reads == "qformer"
    yield Part(
        "words",
        "Words",
        (
            "embeddings and positions",
            *("for the gate: through the Q-Former's text half",) * reads,
        ),
        "[B, T, D]",
        trained,
        row=row,
        column=_TEXT,
        reads=("text",),
    )
    trained, _ = _count([model.prompt_tokens])
    yield Part(
        "text-pass",
        "Q-Former, text alone",
        ("Q learned prompts and the words, without the image", "weights of the first pass, and:"),
        "text [B, E]",
        trained,
        row=row + 3,
        column=_TEXT,
        reads=("words",),
    )


def _query(config: Config, model: ComposedRetriever, row: int, tokens: str) -> Iterator[Part]:
    """The gate and the passes of the Q-Former."""
    options, backbone = config.model.gated_fusion, model.backbone
    trained, frozen = _count([model.fusion])
    sources = (tokens, "words")
    if options.strategy != "none":
        known = STRATEGIES.get(options.strategy)
        formula = "a fusion of your own" if known is None else known.meaning
        has_gate = getattr(model.fusion, "has_gate", False)
        yield Part(
            "gate",
            f"Gated fusion: {options.strategy}",
            (
                formula.replace("*", " · "),
                *("the gate reads the words and each visual token",) * bool(has_gate),
                *(f"{options.blocks} of them, one after the other",) * (options.blocks > 1),
            ),
            "[B, L, Dv]",
            trained,
            frozen,
            row=row,
            column=_REFERENCE,
            reads=sources,
        )
        sources = ("gate", "words")
    trained, _ = _count([backbone.qformer, backbone.query_tokens])
    yield Part(
        "fusion-pass",
        "Q-Former, first pass",
        ("Q queries and the words look at the reference's tokens",),
        "prompts [B, Q, D]",
        trained,
        row=row + 1,
        column=_REFERENCE,
        reads=sources,
    )
    trained, _ = _count([backbone.vision_projection])
    yield Part(
        "target-pass",
        "Q-Former, target",
        (
            "Q queries look at the target's tokens, without a text",
            "weights of the first pass, and:",
        ),
        "targets [B, Q, E]",
        trained,
        row=row + 1,
        column=_TARGET,
        reads=(tokens,),
    )
    trained, _ = _count([backbone.text_projection])
    yield Part(
        "text-half",
        "Q-Former, second pass",
        (
            "Q prompts and the words, without the image: the text's [CLS]",
            "weights of the first pass, and:",
        ),
        "query [B, E]",
        trained,
        row=row + 2,
        column=_REFERENCE,
        reads=("fusion-pass", "words"),
    )
    trained, _ = _count([model.temp])
    yield Part(
        "losses",
        "Losses, summed",
        tuple(_terms(config, model.scales)),
        trained=trained,
        kind="loss",
        row=row + 4,
        span=3,
        reads=("text-pass", "text-half", "target-pass"),
    )


def _terms(config: Config, scales: Sequence[float]) -> Iterator[str]:
    loss = config.loss
    yield "1 · loss_itc: query finds target among the batch (temperature learned)"
    if loss.loss_rtc:
        yield f"{loss.loss_rtc:g} · loss_rtc: text alone finds target"
    if loss.loss_align:
        yield f"{loss.loss_align:g} · loss_align: mean of the prompts near the learned prompts"
    weights = loss.loss_scale if isinstance(loss.loss_scale, tuple) else (loss.loss_scale,)
    if any(weights):
        each = " ".join(f"{weight:g}" for weight in weights)
        named = " ".join(map(str, scales))
        yield f"{each} · loss_scale: query finds target, from each of the scales {named} alone"
    if loss.loss_consistency:
        yield f"{loss.loss_consistency:g} · loss_consistency: scales agree with scale 1.0"
    if loss.loss_gate:
        yield (
            f"{loss.loss_gate:g} · loss_gate: the {loss.gate_target_for} follows the "
            f"{loss.gate_target} map"
        )


def _count(modules: Iterable[object]) -> tuple[int, int]:
    """Parameters that are trained and that are frozen."""
    trained = frozen = 0
    for module in modules:
        weights = [module] if isinstance(module, nn.Parameter) else []
        if isinstance(module, nn.Module):
            weights = list(module.parameters())
        trained += sum(weight.numel() for weight in weights if weight.requires_grad)
        frozen += sum(weight.numel() for weight in weights if not weight.requires_grad)
    return trained, frozen
