"""Backbones of transformers as pyramids, with random weights and small configs."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gatedcir.errors import UserError
from gatedcir.multiscale.pyramids.pyramid_backbones import BACKBONES, create_backbone

SMALL = {"hidden_sizes": [8, 8, 16, 24], "depths": [1, 1, 1, 1]}
CASES = [
    ("pvt_v2_b2", {**SMALL, "num_attention_heads": [1, 1, 2, 2]}, [8, 8, 16, 24]),
    ("resnet18", {**SMALL, "embedding_size": 8}, [8, 8, 16, 24]),
    ("convnext_tiny", SMALL, [8, 8, 16, 24]),
    ("convnextv2", SMALL, [8, 8, 16, 24]),  # a model type
    ("swin_tiny", {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4}, [8, 16, 32, 64]),
    ("efficientnet", {"width_coefficient": 0.1, "depth_coefficient": 0.3}, [8, 8, 16, 32]),
]


@pytest.mark.parametrize(("name", "config", "channels"), CASES)
def test_a_backbone_gives_four_levels(name, config, channels):
    backbone = create_backbone(name, **config).eval()
    with torch.no_grad():
        output = backbone(torch.randn(2, 3, 64, 96))
    maps = getattr(output, "feature_maps", output)
    assert list(backbone.channels) == channels
    assert [tuple(one.shape) for one in maps] == [
        (2, width, 64 // step, 96 // step)
        for width, step in zip(channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "millions", "channels"),
    [
        # Table 2 of PVTv2 (Wang et al. 2022), less the classifier of 0.513 (b0: 0.257) million.
        ("pvt_v2_b0", 3.7 - 0.3, [32, 64, 160, 256]),
        ("pvt_v2_b1", 14.0 - 0.5, [64, 128, 320, 512]),
        ("pvt_v2_b2", 25.4 - 0.5, [64, 128, 320, 512]),
        ("pvt_v2_b3", 45.2 - 0.5, [64, 128, 320, 512]),
        ("pvt_v2_b4", 62.6 - 0.5, [64, 128, 320, 512]),
        ("pvt_v2_b5", 82.0 - 0.5, [64, 128, 320, 512]),
        # The published weights of the others, less their classifiers too.
        ("resnet18", 11.7 - 0.5, [64, 128, 256, 512]),
        ("resnet34", 21.8 - 0.5, [64, 128, 256, 512]),
        ("resnet50", 25.6 - 2.0, [256, 512, 1024, 2048]),
        ("resnet101", 44.5 - 2.0, [256, 512, 1024, 2048]),
        ("convnext_tiny", 28.6 - 0.8, [96, 192, 384, 768]),
        ("swin_tiny", 28.3 - 0.8, [96, 192, 384, 768]),
    ],
)
def test_published_sizes(name, millions, channels):
    with torch.device("meta"):
        backbone = create_backbone(name)
    count = sum(one.numel() for one in backbone.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.1)
    assert list(backbone.channels) == channels


def test_efficientnet_gives_the_last_map_of_each_size():
    torch.manual_seed(0)
    pyramid = create_backbone("efficientnet", width_coefficient=0.1, depth_coefficient=0.3).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        hidden, by_side = pyramid.embeddings(images), {}
        for block in pyramid.blocks:
            hidden = block(hidden)
            by_side[hidden.shape[-1]] = hidden
        maps = pyramid(images)
    assert len(maps) == 4
    for side, one in zip((16, 8, 4, 2), maps, strict=True):
        assert torch.equal(one, by_side[side])


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [("vgg", False, "no backbone vgg"), ("swinv2", True, "no pretrained backbone swinv2")],
)
def test_unknown_names_are_refused(name, pretrained, message):
    with pytest.raises(ValueError, match=f"{message}: take pvt_v2_b0"):
        create_backbone(name, pretrained)


@pytest.mark.parametrize(("name", "config", "channels"), [CASES[0], CASES[-1]])
def test_pretrained_weights_are_read(name, config, channels, monkeypatch, tmp_path):
    backbone = create_backbone(name, **config)
    if name == "efficientnet":
        from transformers import EfficientNetConfig, EfficientNetModel

        settings = {k: v for k, v in BACKBONES[name].items() if k != "hub_name"} | config
        settings.pop("model_type")
        whole = EfficientNetModel(EfficientNetConfig(**settings))
        whole.embeddings.load_state_dict(backbone.embeddings.state_dict())
        whole.encoder.blocks.load_state_dict(backbone.blocks.state_dict())
        whole.save_pretrained(tmp_path)
    else:
        backbone.save_pretrained(tmp_path)
    monkeypatch.setitem(BACKBONES[name], "hub_name", str(tmp_path))
    read = create_backbone(name, pretrained=True, **config)
    for key, value in backbone.state_dict().items():
        assert torch.equal(read.state_dict()[key], value), key


def test_weights_that_cannot_be_read_are_named(monkeypatch, tmp_path):
    place = str(tmp_path / "nowhere")
    monkeypatch.setitem(BACKBONES["resnet18"], "hub_name", place)
    with pytest.raises(UserError, match=r"the weights of resnet18, .*nowhere, cannot be read: .*"):
        create_backbone("resnet18", pretrained=True)


def test_weights_that_are_not_there_are_named(monkeypatch, tmp_path):
    _, config, _ = CASES[1]
    backbone = create_backbone("resnet18", **config)
    state = backbone.state_dict()
    del state["embedder.embedder.convolution.weight"]
    backbone.save_pretrained(tmp_path, state_dict=state)
    monkeypatch.setitem(BACKBONES["resnet18"], "hub_name", str(tmp_path))
    with pytest.raises(UserError, match=r"lacks 1 weights of resnet18, such as embedder\."):
        create_backbone("resnet18", pretrained=True, **config)


class FromTimm(nn.Module):
    """What timm's create_model(..., features_only=True) gives: maps from 1/2 of the size on."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(3, width, 2, 2)
        steps, channels = [2, 4, 8, 16, 32], [width] * 5
        self.feature_info = SimpleNamespace(reduction=lambda: steps, channels=lambda: channels)

    def forward(self, images):
        maps = [self.first(images)]
        for _ in range(4):
            maps.append(nn.functional.avg_pool2d(maps[-1], 2))
        return maps


def test_models_of_timm_are_taken_where_timm_is(monkeypatch):
    def create_model(name, pretrained, *, features_only, width):
        assert (name, pretrained, features_only) == ("edgenext_small", False, True)
        return FromTimm(width)

    timm = SimpleNamespace(is_model="edgenext_small".__eq__, create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", timm)
    backbone = create_backbone("edgenext_small", width=6)
    assert backbone.channels == [6] * 4
    assert [one.shape[-1] for one in backbone(torch.randn(1, 3, 64, 64))] == [16, 8, 4, 2]
    with pytest.raises(ValueError, match="no backbone edgenext_medium: take"):
        create_backbone("edgenext_medium")


def test_without_timm_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"need timm and a torchvision .* features_only=True"):
        create_backbone("edgenext_small")
