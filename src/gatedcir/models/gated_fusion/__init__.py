"""The text changes the reference image's tokens: the classes of the design document, and a base.

They are imported when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatedcir.models.gated_fusion.attentive import AttentiveFusion
    from gatedcir.models.gated_fusion.gated import (
        AdditiveFusion,
        GatedFusion,
        GatedFusionModule,
        InterpolatingFusion,
        NoFusion,
        TextFusion,
    )

__all__ = [
    "AdditiveFusion",
    "AttentiveFusion",
    "GatedFusion",
    "GatedFusionModule",
    "InterpolatingFusion",
    "NoFusion",
    "TextFusion",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "attentive" if name == "AttentiveFusion" else "gated"
    return getattr(import_module(f"{__name__}.{module}"), name)
