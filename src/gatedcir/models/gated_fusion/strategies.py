"""Every way in which the text may change the reference's visual tokens, by its name in a config."""

from collections.abc import Callable
from functools import partial

from torch import nn

from gatedcir.models.gated_fusion.attentive import AttentiveFusion
from gatedcir.models.gated_fusion.gated import (
    AdditiveFusion,
    GatedFusionModule,
    InterpolatingFusion,
    NoFusion,
)

STRATEGIES: dict[str, Callable[..., nn.Module]] = {
    "gated": GatedFusionModule,
    "additive": AdditiveFusion,
    "interpolate": InterpolatingFusion,
    "attentive": partial(AttentiveFusion, text="tokens"),
    "contextual": partial(AttentiveFusion, text="contextual"),
    "contextual-mean": partial(AttentiveFusion, text="mean"),
    "none": NoFusion,
}
