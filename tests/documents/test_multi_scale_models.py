"""The design document "Multi-Scale Models API Documentation", section by section.

Its `neurenix` is PyTorch here, and `neurenix.multiscale` is `gatedcir.multiscale`.
"""

from inspect import Parameter, signature

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gatedcir.multiscale as nx
from gatedcir.multiscale import (
    AttentionFusion,
    FeatureFusion,
    MultiScaleModel,
    MultiScalePooling,
    MultiScaleTransform,
    PyramidDownsample,
    PyramidNetwork,
    PyramidPooling,
    Rescale,
    ScaleFusion,
    SpatialPyramidPooling,
    UNet,
)

NEEDED = Parameter.empty
SCALES, POOLS = (1.0, 0.5, 0.25), (1, 2, 3, 6)
WIDTHS = {"in_channels": NEEDED, "out_channels": NEEDED}
INTERFACE = [
    (
        MultiScaleModel,
        {"scales": SCALES, "base_model": None, "fusion_method": "concat"},
        "forward add_scale remove_scale",
    ),
    (
        PyramidNetwork,
        {**WIDTHS, "num_levels": 3, "base_channels": 64},
        "forward get_features",
    ),
    (
        UNet,
        {**WIDTHS, "features": (64, 128, 256, 512)},
        "forward get_encoder_features get_decoder_features",
    ),
    (MultiScalePooling, {"pool_sizes": POOLS, "pool_type": "avg"}, "forward"),
    (PyramidPooling, {**WIDTHS, "pool_sizes": POOLS}, "forward"),
    (SpatialPyramidPooling, {"num_levels": 3, "pool_type": "max"}, "forward"),
    (FeatureFusion, {**WIDTHS, "fusion_method": "concat"}, "forward"),
    (
        ScaleFusion,
        {"scales": NEEDED, **WIDTHS, "fusion_method": "concat"},
        "forward",
    ),
    (AttentionFusion, WIDTHS, "forward"),
    (MultiScaleTransform, {"scales": SCALES, "mode": "bilinear"}, "forward inverse"),
    (Rescale, {"scale_factor": 0.5, "mode": "bilinear"}, "forward inverse"),
    (PyramidDownsample, {"num_levels": 3, "mode": "bilinear"}, "forward get_level"),
]


@pytest.mark.parametrize(("kind", "arguments", "methods"), INTERFACE)
def test_api_reference(kind, arguments, methods):
    """Section "API Reference": arguments, their order and defaults, and methods, of all twelve."""
    found = {
        name: one.default
        for name, one in signature(kind).parameters.items()
        if one.kind is not Parameter.KEYWORD_ONLY
    }
    assert list(found.items()) == list(arguments.items())
    assert all(callable(getattr(kind, method)) for method in methods.split())


def base_model():
    return nn.Sequential(
        nn.Conv2d(3, 64, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, kernel_size=3, padding=1),
        nn.ReLU(),
    )


@pytest.mark.parametrize(
    "scales",
    [[1.0, 0.5, 0.25], [1.0, 0.75, 0.5, 0.25], [1.0, 0.5], [1.0, 0.5, 0.25, 0.125]],
)
@pytest.mark.parametrize(("method", "per_scale"), [("concat", True), ("sum", 0), ("attention", 0)])
def test_multi_scale_models_and_choosing_scales(scales, method, per_scale):
    """Section "Multi-Scale Models", and "Choosing Scales" and "Scale Selection" of the advice."""
    model = MultiScaleModel(scales=scales, base_model=base_model(), fusion_method=method)
    output = model(torch.randn(1, 3, 28, 28))
    assert output.shape == (1, 64 * (len(scales) if per_scale else 1), 28, 28)


@pytest.mark.parametrize(
    ("widths", "out_channels", "method"),
    [
        ([64, 128, 256], 512, "concat"),
        ([128, 128, 128], 128, "sum"),
        ([64, 128, 256], 128, "attention"),
    ],
)
def test_best_practices_feature_fusion(widths, out_channels, method):
    fusion = FeatureFusion(in_channels=widths, out_channels=out_channels, fusion_method=method)
    sides = [8, 4, 2]
    features = [torch.randn(1, c, side, side) for c, side in zip(widths, sides, strict=True)]
    assert fusion(features).shape == (1, out_channels, 8, 8)


def test_api_reference_the_getters_of_networks():
    x = torch.randn(1, 3, 13, 10)
    pyramid, unet = PyramidNetwork(3, 2, 3, 4), UNet(3, 2, [4, 8])
    pyramid(x), unet(x)
    assert [one.shape[1] for one in pyramid.get_features()] == [4, 8, 16]
    merged = pyramid.get_features(merged=True)
    assert [tuple(one.shape[1:]) for one in merged] == [(4, 13, 10), (4, 7, 5), (4, 4, 3)]
    assert torch.equal(pyramid.head(merged[0]), pyramid(x))
    for features in (unet.get_encoder_features(), unet.get_decoder_features()):
        assert [tuple(one.shape[1:]) for one in features] == [(4, 13, 10), (8, 7, 5)]


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_api_reference_transforms_go_back_to_the_original_size(mode):
    x = torch.randn(1, 3, 13, 10)
    transform = MultiScaleTransform([1.0, 0.5, 0.25], mode)
    assert {one.shape for one in transform.inverse(transform(x), (13, 10))} == {x.shape}
    rescale = Rescale(0.5, mode)
    assert rescale.inverse(rescale(x)).shape == x.shape
    pyramid = PyramidDownsample(3, mode)
    levels = pyramid(x)
    assert all(torch.equal(pyramid.get_level(i), level) for i, level in enumerate(levels))


def test_memory_efficiency():
    """Section "Memory Efficiency": the same output and gradients (more in test_recompute)."""
    model = PyramidNetwork(
        in_channels=3,
        out_channels=1,
        num_levels=4,
        base_channels=32,  # Use smaller base channels for memory efficiency
    )
    input_tensor = torch.randn(1, 3, 24, 24)
    with nx.enable_gradient_checkpointing():
        output = model(input_tensor)
    assert torch.equal(output, model(input_tensor))
    output.sum().backward()
    assert all(one.grad is not None for one in model.parameters())


def segmentation(model, criterion, folder):
    """Section "Image Segmentation with U-Net": train on bright pixels, then save the model."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    images = torch.randn(8, 3, 13, 16, generator=torch.Generator().manual_seed(0))
    masks = (images.mean(1, keepdim=True) > 0).float()
    train_loader = DataLoader(TensorDataset(images, masks), batch_size=4, shuffle=True)
    losses = []
    for _ in range(15):
        for images, masks in train_loader:
            outputs = model(images)
            loss = criterion(outputs, masks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    torch.save(model, folder / "unet_segmentation_model.nx")
    again = torch.load(folder / "unet_segmentation_model.nx", weights_only=False)
    assert torch.equal(again(images), model(images))
    assert losses[-1] < 0.6 * losses[0]


def test_tutorial_segmentation_with_probabilities(tmp_path):
    torch.manual_seed(0)
    model = UNet(in_channels=3, out_channels=1, features=[8, 16], activation="sigmoid")
    segmentation(model, nn.BCELoss(), tmp_path)


def test_tutorial_segmentation_with_logits(tmp_path):
    """As the tutorial makes the model: the output is linear, so the loss is the one with logits."""
    torch.manual_seed(0)
    model = UNet(in_channels=3, out_channels=1, features=[8, 16])
    segmentation(model, nn.BCEWithLogitsLoss(), tmp_path)


def test_tutorial_segmentation_with_classes():
    output = UNet(3, 4, [4], activation="softmax")(torch.randn(2, 3, 6, 6))
    torch.testing.assert_close(output.sum(1), torch.ones(2, 6, 6))
    with pytest.raises(ValueError, match="activation 'tanh': it must be one of none, sigmoid"):
        UNet(3, 1, [4], activation="tanh")


def test_tutorial_multi_scale_feature_extraction():
    extractor = PyramidNetwork(in_channels=3, out_channels=128, num_levels=4, base_channels=64)
    fusion = FeatureFusion(
        in_channels=[64, 128, 256, 512], out_channels=256, fusion_method="attention"
    )
    classifier = nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    _ = extractor(torch.randn(2, 3, 20, 20))
    fused = fusion(extractor.get_features())
    output = classifier(fused.mean(dim=[2, 3]))
    assert output.shape == (2, 10)
    output.square().sum().backward()
    trained = [*extractor.stages.parameters(), *fusion.parameters(), *classifier.parameters()]
    assert all(weight.grad.abs().sum() > 0 for weight in trained)
