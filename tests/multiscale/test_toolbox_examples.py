"""The toolbox as its interface was specified: arguments, defaults, methods, worked examples."""

from inspect import Parameter, signature

import pytest
import torch
from torch import nn

from gatedcir.multiscale import feature_fusion, networks, pooling, rescaling
from gatedcir.multiscale.feature_fusion import FeatureFusion
from gatedcir.multiscale.networks import MultiScaleModel, PyramidNetwork, UNet

NEEDED = Parameter.empty
SCALES, POOLS = (1.0, 0.5, 0.25), (1, 2, 3, 6)
WIDTHS = {"in_channels": NEEDED, "out_channels": NEEDED}
INTERFACE = [
    (
        networks.MultiScaleModel,
        {"scales": SCALES, "base_model": None, "fusion_method": "concat"},
        "forward add_scale remove_scale",
    ),
    (
        networks.PyramidNetwork,
        {**WIDTHS, "num_levels": 3, "base_channels": 64},
        "forward get_features",
    ),
    (
        networks.UNet,
        {**WIDTHS, "features": (64, 128, 256, 512)},
        "forward get_encoder_features get_decoder_features",
    ),
    (pooling.MultiScalePooling, {"pool_sizes": POOLS, "pool_type": "avg"}, "forward"),
    (pooling.PyramidPooling, {**WIDTHS, "pool_sizes": POOLS}, "forward"),
    (pooling.SpatialPyramidPooling, {"num_levels": 3, "pool_type": "max"}, "forward"),
    (feature_fusion.FeatureFusion, {**WIDTHS, "fusion_method": "concat"}, "forward"),
    (
        feature_fusion.ScaleFusion,
        {"scales": NEEDED, **WIDTHS, "fusion_method": "concat"},
        "forward",
    ),
    (feature_fusion.AttentionFusion, WIDTHS, "forward"),
    (rescaling.MultiScaleTransform, {"scales": SCALES, "mode": "bilinear"}, "forward inverse"),
    (rescaling.Rescale, {"scale_factor": 0.5, "mode": "bilinear"}, "forward inverse"),
    (rescaling.PyramidDownsample, {"num_levels": 3, "mode": "bilinear"}, "forward get_level"),
]


@pytest.mark.parametrize(("kind", "arguments", "methods"), INTERFACE)
def test_constructors_and_methods(kind, arguments, methods):
    found = signature(kind).parameters
    assert list(found) == list(arguments)
    assert {name: one.default for name, one in found.items()} == arguments
    assert all(one.kind is Parameter.POSITIONAL_OR_KEYWORD for one in found.values())
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
def test_multi_scale_model_around_a_base_model(scales, method, per_scale):
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
def test_a_fusion_for_each_purpose(widths, out_channels, method):
    fusion = FeatureFusion(in_channels=widths, out_channels=out_channels, fusion_method=method)
    sides = [8, 4, 2]
    features = [torch.randn(1, c, side, side) for c, side in zip(widths, sides, strict=True)]
    assert fusion(features).shape == (1, out_channels, 8, 8)


def test_segmentation_with_a_unet_learns():
    """Whether a pixel is bright; the output is linear, so the loss is the one with logits."""
    torch.manual_seed(0)
    model = UNet(in_channels=3, out_channels=1, features=[8, 16])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    images = torch.randn(4, 3, 13, 16)
    masks = (images.mean(1, keepdim=True) > 0).float()
    losses = []
    for _ in range(30):
        loss = nn.functional.binary_cross_entropy_with_logits(model(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_features_of_a_pyramid_are_fused_classified_and_trained():
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
