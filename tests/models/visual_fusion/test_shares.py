"""The shares of the levels in the fused map, against fusions whose shares are known."""

import pytest
import torch
from torch import nn

from gatedcir.models.visual_fusion.fusion import VisualFusion
from gatedcir.models.visual_fusion.shares import level_shares


def levels(sides=(2, 2), batch=2):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, 1 + side * side, 16, generator=generator) for side in sides]


class Weighted(nn.Module):
    """A sum of the levels with a weight for each of them at each token: [N, L]."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def forward(self, maps):
        return sum(w[:, None] * one for w, one in zip(self.weights, maps, strict=True)), {}


def test_of_a_weighted_sum_they_are_the_weights():
    weights = torch.tensor([[0.8, 0.5, 0.0, 1.0, 0.3], [0.2, 0.5, 1.0, 0.0, 0.7]])
    maps = [one.sign() for one in levels()]  # all of the same size, at every token
    found = level_shares(Weighted(weights), maps)
    torch.testing.assert_close(found, weights.expand(2, 2, 5))


def test_without_any_influence_they_are_zero():
    assert not level_shares(Weighted(torch.zeros(2, 5)), levels()).any()


@pytest.mark.parametrize("gain", [0.0, 0.1, 1.0])
def test_a_residual_gain_of_zero_leaves_all_to_the_main_layer(gain):
    """Whatever the global weights say. With a gain the other layer gets its part."""
    torch.manual_seed(0)
    fusion = VisualFusion(width=16, num_layers=2, layer_fusion="dynamic").eval()
    nn.init.constant_(fusion.fuse.gain, gain)
    with torch.no_grad():
        fusion.fuse.module.layer_fusion.context_encoder[-1].bias.copy_(torch.tensor([0.0, 4.0]))
        found = level_shares(fusion, levels())
    assert fusion(levels())[1]["layer_weights"][:, 1].min() > 0.9
    torch.testing.assert_close(found.sum(1), torch.ones(2, 5))
    if gain == 0:
        assert torch.equal(found[:, 0], torch.ones(2, 5))
    else:
        assert found[:, 1].min() > 0
        assert (found[:, 1].mean() > 0.3) == (gain == 1)


def test_scales_and_layers_have_a_share_each():
    torch.manual_seed(0)
    fusion = VisualFusion(
        width=16,
        num_layers=2,
        layer_fusion="weighted-sum",
        scales=(0.5, 1.0),
        scale_fusion="absi",
        start="seed",
    ).eval()
    with torch.no_grad():
        found = level_shares(fusion, levels(sides=(1, 1, 2, 2)))
    assert found.shape == (2, 4, 5)
    assert (found > 0).all()
