"""The options of the model: what stands between the vision tower and the Q-Former."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from gatedcir.models.gated_fusion.strategies import STRATEGIES
from gatedcir.options.marks import MAY_BE_PATH, OneOf, Range, Seldom

_STRATEGIES = OneOf(STRATEGIES, "my_file:MyFusion")
StrategyName = Annotated[
    str,
    _STRATEGIES,
    tyro.conf.arg(
        metavar=_STRATEGIES.metavar,
        help="How the text changes the image's tokens before the Q-Former reads them. "
        "delta: the direction of the change, a number in [-1, 1] for each channel, made from the "
        "text. gate: how much of it each token takes. alpha: one learned factor for all. "
        + " ".join(f"{name}: {entry.meaning}." for name, entry in STRATEGIES.items()),
    ),
]


@dataclass(frozen=True)
class GatedFusionConfig:
    """How the text changes the reference's visual tokens before the Q-Former."""

    strategy: StrategyName = "gated"
    alpha_init: Seldom[Annotated[float, Range()]] = 0.5
    """Start value of alpha, the learned factor of the change. interpolate has none."""
    dropout: Seldom[Annotated[float, Range(0, below=1)]] = 0.1
    """Dropout inside the layers that make gate and delta."""
    start: Literal["seed", "identity"] = "seed"
    """With identity, the fusion changes nothing at step 0, because the last layer of delta starts
    at zero. With seed, that layer starts with random weights, as all others do."""
    reads: Literal["embeddings", "qformer"] = "embeddings"
    """The text that the strategy reads: the words' embeddings, or the outputs of the Q-Former's
    text half for them, at the cost of one more text pass."""
    blocks: Annotated[int, Range(1)] = 1
    """Fusions of this kind, one after the other."""


@dataclass(frozen=True)
class ModelConfig:
    """What stands between the vision tower and the Q-Former."""

    visual_layers: tuple[int, ...] = (-1,)
    """Blocks of the vision tower that are read, the main one first. -1 is the last block."""
    layer_fusion: Annotated[
        Literal[
            "none",
            "mean",
            "dynamic",
            "dynamic-no-gate",
            "dynamic-gate-only",
            "concat",
            "weighted-sum",
            "channel-attention",
            "fixed-sum",
            "learned-sum",
            "attention",
            "cross-attention",
        ],
        tyro.conf.arg(aliases=("--model.visual-fusion",)),
    ] = "none"
    """How several layers become one map of tokens. none is for one layer."""
    layer_weights: Seldom[tuple[float, ...] | None] = None
    """Weights of fixed-sum, one for each layer. Without them: equal ones, whose sum is 1."""
    reduced_width: Seldom[Annotated[int, Range(1)]] = 64
    """Channels to which concat, attention and cross-attention reduce each layer."""
    visual_scales: tuple[float, ...] = (1.0,)
    """Multiples of the image's size at which the tower reads it, 1.0 among them."""
    scale_fusion: Literal["none", "mean", "concat", "absi", "hierarchical", "deformable"] = "none"
    """How several scales become one map of tokens, layer by layer. none is for one scale."""
    scale_backbones: Seldom[Annotated[tuple[str, ...] | None, MAY_BE_PATH]] = None
    """A vision tower for each of the scales: names of weights, as --backbone takes them, or same,
    which is the tower of --backbone. Another width than that one's gets a learned projection."""
    adaptive_scales: Seldom[bool] = False
    """Learn which scales an image needs. Evaluation skips the others."""
    neck: Literal[
        "none",
        "pyramid-pooling",
        "unet",
        "pyramid",
        "multi-scale",
        "spatial-pyramid-pooling",
        "multi-scale-pooling",
    ] = "none"
    """What refines the map after both fusions."""
    neck_args: Seldom[tuple[str, ...]] = ()
    """Arguments of the neck as NAME=VALUE, such as num_levels=3 or pool_sizes=1,2,4."""
    query_branch: Seldom[Literal["none", "second", "both"]] = "none"
    """A copy of the Q-Former that encodes queries, while the model's own one encodes images.
    second: for the pass over prompts and text, as the bank stage has it. both: for the fusion pass
    too."""
    matcher: Seldom[Literal["none", "itm"]] = "none"
    """What judges the first images of a search again. itm: BLIP-2's image-text matching over
    reference, text and candidate, which a later stage trains."""
    visual_start: Seldom[Literal["identity", "seed"]] = "identity"
    """Start of the layer fusion, the scale fusion and the neck. identity: they change nothing at
    step 0. seed: they start with random weights."""
    gated_fusion: GatedFusionConfig = field(default_factory=GatedFusionConfig)
