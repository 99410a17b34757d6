"""The toolbox of the design documents: maps of several scales, without any BLIP-2.

All its classes and functions can be imported from here. Each is loaded when it is first asked
for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatedcir.multiscale.dynamic_fusion import DynamicMultiScaleFusion
    from gatedcir.multiscale.feature_fusion import AttentionFusion, FeatureFusion, ScaleFusion
    from gatedcir.multiscale.list_fusion import (
        ListFusion,
        channel_attention_fusion,
        concat_fusion,
        fusion_attention,
        fusion_concatenation,
        fusion_weighted_sum,
        weighted_sum_fusion,
    )
    from gatedcir.multiscale.maps import ChannelAttention, SpatialAttention
    from gatedcir.multiscale.networks import MultiScaleModel, PyramidNetwork, UNet
    from gatedcir.multiscale.pooling import (
        MultiScalePooling,
        PyramidPooling,
        SpatialPyramidPooling,
    )
    from gatedcir.multiscale.pyramids.decoder import DecoderModule
    from gatedcir.multiscale.pyramids.multi_scale_input import (
        MultiScaleInputProcessor,
        ScaleSpecificProcessor,
    )
    from gatedcir.multiscale.pyramids.pyramid_backbones import create_backbone
    from gatedcir.multiscale.pyramids.scale_alignment import (
        DeformableConv2d,
        DeformableScaleIntegration,
    )
    from gatedcir.multiscale.pyramids.scale_integration import (
        ABSI,
        CrossScaleAttention,
        HierarchicalScaleIntegration,
    )
    from gatedcir.multiscale.pyramids.scale_loss import ScaleAwareLoss
    from gatedcir.multiscale.pyramids.scale_selection import AdaptiveScaleSelector
    from gatedcir.multiscale.recompute import enable_gradient_checkpointing
    from gatedcir.multiscale.rescaling import MultiScaleTransform, PyramidDownsample, Rescale

_MODULES = {
    "dynamic_fusion": ("DynamicMultiScaleFusion",),
    "feature_fusion": ("AttentionFusion", "FeatureFusion", "ScaleFusion"),
    "list_fusion": (
        "ListFusion",
        "channel_attention_fusion",
        "concat_fusion",
        "fusion_attention",
        "fusion_concatenation",
        "fusion_weighted_sum",
        "weighted_sum_fusion",
    ),
    "maps": ("ChannelAttention", "SpatialAttention"),
    "networks": ("MultiScaleModel", "PyramidNetwork", "UNet"),
    "pooling": ("MultiScalePooling", "PyramidPooling", "SpatialPyramidPooling"),
    "pyramids.decoder": ("DecoderModule",),
    "pyramids.multi_scale_input": ("MultiScaleInputProcessor", "ScaleSpecificProcessor"),
    "pyramids.pyramid_backbones": ("create_backbone",),
    "pyramids.scale_alignment": ("DeformableConv2d", "DeformableScaleIntegration"),
    "pyramids.scale_integration": ("ABSI", "CrossScaleAttention", "HierarchicalScaleIntegration"),
    "pyramids.scale_loss": ("ScaleAwareLoss",),
    "pyramids.scale_selection": ("AdaptiveScaleSelector",),
    "recompute": ("enable_gradient_checkpointing",),
    "rescaling": ("MultiScaleTransform", "PyramidDownsample", "Rescale"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [*_MODULE_OF]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
