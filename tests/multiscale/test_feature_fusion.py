"""Fusions against sums written out pixel by pixel."""

import pytest
import torch
from torch.nn import functional as F

from gatedcir.multiscale.feature_fusion import AttentionFusion, FeatureFusion, ScaleFusion

METHODS = ["concat", "sum", "attention"]


def one_by_one(layer, maps):
    """A 1x1 convolution as the matrix product it is."""
    mixed = torch.einsum("oi,bihw->bohw", layer.weight[:, :, 0, 0], maps)
    return mixed if layer.bias is None else mixed + layer.bias[:, None, None]


def to_size(maps, size):
    smaller = maps.shape[-1] > size[-1]
    return F.interpolate(maps, size=size, mode="bilinear", antialias=smaller, align_corners=False)


@pytest.fixture
def features():
    torch.manual_seed(0)
    return [torch.randn(2, 3, 5, 7), torch.randn(2, 4, 3, 4), torch.randn(2, 6, 9, 11)]


def test_concatenation(features):
    fusion = FeatureFusion([3, 4, 6], 5)
    joined = torch.cat([to_size(maps, (5, 7)) for maps in features], dim=1)
    torch.testing.assert_close(fusion(features), one_by_one(fusion.fusion.mix, joined))


def test_sum_without_parameters_where_the_widths_agree():
    fusion = FeatureFusion([2, 2], 2, "sum")
    assert not list(fusion.parameters())
    found = fusion([torch.full((1, 2, 3, 3), 2.0), torch.full((1, 2, 1, 2), 5.0)])
    assert torch.equal(found, torch.full((1, 2, 3, 3), 7.0))


def test_sum_projects_other_widths(features):
    fusion = FeatureFusion([3, 4, 6], 4, "sum")
    layers = fusion.fusion.projections
    expected = to_size(features[1], (5, 7)) + one_by_one(layers[0], features[0])
    expected += to_size(one_by_one(layers[2], features[2]), (5, 7))
    torch.testing.assert_close(fusion(features), expected)


def test_attention_is_a_mean_whose_weights_each_pixel_chooses(features):
    fusion = FeatureFusion([3, 4, 6], 5, "attention")
    fused, aux = fusion.compute(features)
    layers = fusion.fusion.projections
    projected = [
        to_size(one_by_one(layer, maps), (5, 7))
        for layer, maps in zip(layers, features, strict=True)
    ]
    rated = [one_by_one(fusion.fusion.score, maps)[:, 0].exp() for maps in projected]
    expected = sum(r[:, None] * maps for r, maps in zip(rated, projected, strict=True))
    torch.testing.assert_close(fused, expected / sum(rated)[:, None])
    torch.testing.assert_close(aux["weights"][:, 1], rated[1] / sum(rated))
    torch.testing.assert_close(aux["weights"].sum(1), torch.ones(2, 5, 7))


def test_attention_by_hand():
    """Maps 0 and log 3 on a score of weight 1: weights 1/4 and 3/4."""
    fusion = AttentionFusion([1, 1], 1)
    for layer in (*fusion.projections, fusion.score):
        torch.nn.init.ones_(layer.weight)
    for layer in fusion.projections:
        torch.nn.init.zeros_(layer.bias)
    log3 = torch.tensor(3.0).log()
    found = fusion([torch.zeros(1, 1, 1, 1), log3.view(1, 1, 1, 1)])
    torch.testing.assert_close(found.flatten()[0], 0.75 * log3)


def test_scales_are_fused_at_the_size_of_the_one_nearest_to_one():
    fusion = ScaleFusion([0.5, 1.0, 2.0], 3, 3, "sum")
    maps = [torch.full((1, 3, side, side), float(side)) for side in (2, 4, 8)]
    torch.testing.assert_close(fusion(maps), torch.full((1, 3, 4, 4), 14.0))


@pytest.mark.parametrize("method", METHODS)
def test_scale_fusion_is_feature_fusion_of_equal_widths(method):
    fusion = ScaleFusion([1.0, 0.5], 3, 4, method)
    maps = [torch.randn(1, 3, 5, 5), torch.randn(1, 3, 3, 3)]
    assert torch.equal(fusion(maps), fusion.fusion(maps))
    assert set(fusion.compute(maps)[1]) == ({"weights"} if method == "attention" else set())


@pytest.mark.parametrize("method", METHODS)
def test_gradient_reaches_every_weight(method, features):
    for maps in features:
        maps.requires_grad_()
    fusion = FeatureFusion([3, 4, 6], 5, method)
    fusion(features).square().sum().backward()
    assert all(one.grad.abs().sum() > 0 for one in [*features, *fusion.parameters()])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("concat", 3 * 1408 * 1408 + 1408),
        ("sum", 0),
        ("attention", 3 * (1408 * 1408 + 1408) + 1408),
    ],
)
def test_counts_at_the_towers_width(method, expected):
    with torch.device("meta"):
        fusion = ScaleFusion([1.0, 0.5, 0.25], 1408, 1408, method)
    assert sum(weight.numel() for weight in fusion.parameters()) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureFusion([2], 2, "product"), "'product'.*concat, sum, attention"),
        (lambda: ScaleFusion([1.0], 2, 2, "product"), "'product'.*concat, sum, attention"),
        (lambda: FeatureFusion([], 2), "in_channels"),
        (lambda: AttentionFusion([], 2), "in_channels"),
        (lambda: ScaleFusion([1.0, 1.0], 2, 2), "scales"),
        (lambda: FeatureFusion([2, 3], 2)([torch.ones(1, 2, 2, 2)]), r"\[2\].*\[2, 3\]"),
        (lambda: AttentionFusion([2], 2)([torch.ones(1, 3, 2, 2)]), r"\[3\].*\[2\]"),
        (lambda: ScaleFusion([1.0, 0.5], 2, 2)([torch.ones(1, 2, 2, 2)]), "1 features.*0.5"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
