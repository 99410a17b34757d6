"""Backbones that give a pyramid of four maps, at 1/4, 1/8, 1/16 and 1/32 of the image's size."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, EfficientNetModel
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

from gatedcir.errors import UserError, reason_of

STAGES = ["stage1", "stage2", "stage3", "stage4"]


def _pvt_v2(size: int, widths: list[int], depths: list[int], ratios: list[int]) -> dict[str, Any]:
    sizes = {"hidden_sizes": widths, "depths": depths, "mlp_ratios": ratios}
    return {"model_type": "pvt_v2", "hub_name": f"OpenGVLab/pvt_v2_b{size}", **sizes}


def _resnet(layers: int, block: str, widths: list[int], depths: list[int]) -> dict[str, Any]:
    sizes = {"layer_type": block, "hidden_sizes": widths, "depths": depths}
    return {"model_type": "resnet", "hub_name": f"microsoft/resnet-{layers}", **sizes}


_PVT, _NARROW, _WIDE = [64, 128, 320, 512], [64, 128, 256, 512], [256, 512, 1024, 2048]

# Sizes of PVTv2: Wang et al., CVMJ 2022, table 1; of ResNet: He et al., CVPR 2016, table 1. The
# other numbers are the defaults of transformers' configs.
BACKBONES: dict[str, dict[str, Any]] = {
    "pvt_v2_b0": _pvt_v2(0, [32, 64, 160, 256], [2, 2, 2, 2], [8, 8, 4, 4]),
    "pvt_v2_b1": _pvt_v2(1, _PVT, [2, 2, 2, 2], [8, 8, 4, 4]),
    "pvt_v2_b2": _pvt_v2(2, _PVT, [3, 4, 6, 3], [8, 8, 4, 4]),
    "pvt_v2_b3": _pvt_v2(3, _PVT, [3, 4, 18, 3], [8, 8, 4, 4]),
    "pvt_v2_b4": _pvt_v2(4, _PVT, [3, 8, 27, 3], [8, 8, 4, 4]),
    "pvt_v2_b5": _pvt_v2(5, _PVT, [3, 6, 40, 3], [4, 4, 4, 4]),
    "resnet18": _resnet(18, "basic", _NARROW, [2, 2, 2, 2]),
    "resnet34": _resnet(34, "basic", _NARROW, [3, 4, 6, 3]),
    "resnet50": _resnet(50, "bottleneck", _WIDE, [3, 4, 6, 3]),
    "resnet101": _resnet(101, "bottleneck", _WIDE, [3, 4, 23, 3]),
    "convnext_tiny": {
        "model_type": "convnext",
        "hub_name": "facebook/convnext-tiny-224",
        "hidden_sizes": [96, 192, 384, 768],  # the config's own tuple cannot be added to a list
    },
    "swin_tiny": {"model_type": "swin", "hub_name": "microsoft/swin-tiny-patch4-window7-224"},
    # The config's momentum, 0.99, follows TensorFlow's definition, which is one minus torch's.
    "efficientnet": {
        "model_type": "efficientnet",
        "hub_name": "google/efficientnet-b0",
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "hidden_dim": 1280,
        "batch_norm_momentum": 0.01,
    },
}


class EfficientNetPyramid(nn.Module):
    """The last map of each size from EfficientNet, for which transformers has no backbone class.

    `channels` are those of the four maps.
    """

    def __init__(self, model: EfficientNetModel) -> None:
        super().__init__()
        self.embeddings = model.embeddings
        self.blocks = model.encoder.blocks
        _, *later = (i for i, one in enumerate(self.blocks) if one.depthwise_conv.stride == 2)
        # The first halving, after the embeddings' own, opens the level at 1/4.
        self.last = [i - 1 for i in later] + [len(self.blocks) - 1]
        self.channels = [self.blocks[i].projection.project_conv.out_channels for i in self.last]

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> four maps [B, C, h, w], fine to coarse."""
        maps = []
        hidden = self.embeddings(images)
        for i, block in enumerate(self.blocks):
            hidden = block(hidden)
            if i in self.last:
                maps.append(hidden)
        return maps


class TimmPyramid(nn.Module):
    """The maps of a timm model at 1/4 of the image's size and below. `channels` are theirs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.kept = [i for i, step in enumerate(model.feature_info.reduction()) if step >= 4]
        self.channels = [model.feature_info.channels()[i] for i in self.kept]

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> maps [B, C, h, w], fine to coarse."""
        maps: Sequence[Tensor] = self.model(images)
        return [maps[i] for i in self.kept]


def _of_timm(name: str, pretrained: bool, **config: Any) -> nn.Module:
    """A backbone of timm.

    Raises:
        ValueError: timm cannot be imported here, or has no such model.
    """
    try:
        timm = import_module("timm")
        known = timm.is_model(name)
    except (
        Exception
    ):  # an ImportError without torchvision, a RuntimeError with one of another torch
        known = False
    if not known:
        kind = "pretrained backbone" if pretrained else "backbone"
        raise ValueError(
            f"no {kind} {name}: take {', '.join(BACKBONES)}. "
            "Models of timm need timm and a torchvision that fits your torch. Any function of "
            "images that gives a list of maps can be the backbone too, such as "
            'timm.create_model("edgenext_small", features_only=True).'
        )
    return TimmPyramid(timm.create_model(name, pretrained, features_only=True, **config))


def create_backbone(name: str, pretrained: bool = False, **config: Any) -> nn.Module:
    """A backbone with four levels and their widths as `channels`.

    Args:
        name: a key of `BACKBONES`, or a model type that transformers' AutoBackbone knows, such as
            "pvt_v2" or "convnextv2". Where timm can be imported, also a model of timm, such as
            "edgenext_small".
        pretrained: use weights from the hub, for a key of `BACKBONES` or a model of timm. Else they
            are random.
        config: arguments of transformers' config, such as `depths`, over those of the name, or of
            timm's `create_model`.

    Raises:
        ValueError: an unknown name, or a model type where pretrained weights are asked for.
        UserError: the weights cannot be read, or are not all there.
    """
    types = {config_class.model_type for config_class in MODEL_FOR_BACKBONE_MAPPING}
    if name not in BACKBONES and (pretrained or name not in types):
        return _of_timm(name, pretrained, **config)
    settings = {"model_type": name, "hub_name": "", **BACKBONES.get(name, {}), **config}
    model_type, hub_name = settings.pop("model_type"), settings.pop("hub_name")
    is_efficientnet = model_type == "efficientnet"
    if not is_efficientnet:
        settings.setdefault("out_features", STAGES)
    if not pretrained:
        full = AutoConfig.for_model(model_type, **settings)
        if is_efficientnet:
            return EfficientNetPyramid(EfficientNetModel(full))
        return AutoBackbone.from_config(full)
    try:
        full = AutoConfig.from_pretrained(hub_name, **settings)
        # AutoBackbone asks the hub even for weights that are already here.
        model_class = (
            EfficientNetModel if is_efficientnet else MODEL_FOR_BACKBONE_MAPPING[type(full)]
        )
        model, report = model_class.from_pretrained(
            hub_name, config=full, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # this call uses a dozen libraries
        raise UserError(
            f"the weights of {name}, {hub_name}, cannot be read: {reason_of(error)}."
        ) from None
    # A classifier's weights lack the norms of the levels. These norms then start as ones.
    if missing := sorted(one for one in report["missing_keys"] if "hidden_states_norms" not in one):
        raise UserError(f"{hub_name} lacks {len(missing)} weights of {name}, such as {missing[0]}.")
    return EfficientNetPyramid(model) if is_efficientnet else model
