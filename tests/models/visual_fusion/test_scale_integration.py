"""The integrations of scales against slow references, and what they may depend on."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gatedcir.models.visual_fusion.scale_alignment import DeformableScaleIntegration
from gatedcir.models.visual_fusion.scale_integration import (
    ABSI,
    CrossScaleAttention,
    HierarchicalScaleIntegration,
)

CHANNELS = 8
KINDS = [ABSI, HierarchicalScaleIntegration, DeformableScaleIntegration]
PVT_V2_B2 = [64, 128, 320, 512]


def make(kind, **settings):
    torch.manual_seed(0)
    return kind(CHANNELS, **settings).double()


def maps_of(*sizes, seed=1, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, CHANNELS, *size, generator=generator, dtype=torch.float64)
        for size in sizes
    ]


PYRAMID = [(2, 3), (4, 6), (6, 9)]


def slow_attention(module, tokens, weights=None):
    """One batch entry, position, head and query at a time: [B, N, S, C]."""
    result = torch.zeros_like(tokens)
    num_scales, width = tokens.shape[2], tokens.shape[3] // module.num_heads
    for b, n in torch.cartesian_prod(*map(torch.arange, tokens.shape[:2])).tolist():
        projected = [
            module.projections[i](tokens[b, n, i]).view(3, module.num_heads, width)
            for i in range(num_scales)
        ]
        for head in range(module.num_heads):
            for i in range(num_scales):
                scores = [
                    (projected[i][0, head] @ other[1, head]).item() / math.sqrt(width)
                    for other in projected
                ]
                powers = [
                    math.exp(score) * (1 if weights is None else weights[b, j].item())
                    for j, score in enumerate(scores)
                ]
                value = sum(
                    power / sum(powers) * other[2, head]
                    for power, other in zip(powers, projected, strict=True)
                )
                result[b, n, i, head * width : (head + 1) * width] = value
    return result


@pytest.mark.parametrize("weights", [None, torch.tensor([[1.0, 1, 0], [0.3, 1, 0.5]]).double()])
def test_attention_is_that_of_each_position(weights):
    torch.manual_seed(0)
    module = CrossScaleAttention(CHANNELS, 3, num_heads=2).double()
    tokens = torch.randn(2, 5, 3, CHANNELS).double()
    torch.testing.assert_close(module(tokens, weights), slow_attention(module, tokens, weights))


@pytest.mark.parametrize("sizes", [PYRAMID, [(4, 6)] * 3])
def test_absi_is_its_formula(sizes):
    module = make(ABSI, num_heads=2)
    maps = maps_of(*sizes)
    fused, aux = module(maps)
    aligned = [
        one
        if one.shape[-2:] == (4, 6)
        else F.interpolate(one, (4, 6), mode="bilinear", antialias=one.shape[-1] > 6)
        for one in maps
    ]
    pooled = torch.cat([one.mean((2, 3)) for one in aligned], dim=1)
    powers = (pooled @ module.importance.weight.T + module.importance.bias).exp()
    importance = powers / powers.sum(1, keepdim=True)
    torch.testing.assert_close(aux["scale_weights"], importance)
    tokens = torch.stack([one.flatten(2).mT for one in aligned], dim=2)
    attended = slow_attention(module.attention, tokens)
    summed = sum(importance[:, i, None, None] * attended[:, :, i] for i in range(3))
    expected = maps[1] + module.output(summed).mT.reshape(maps[1].shape)
    torch.testing.assert_close(fused, expected)


def test_absi_looks_at_one_position_only():
    module = make(ABSI, num_heads=2)
    torch.nn.init.zeros_(module.importance.weight)  # importances that no input changes
    maps = maps_of(*[(4, 6)] * 3)
    changed = [one.clone() for one in maps]
    changed[0][:, :, 2, 3] += 1
    differs = (module(changed)[0] != module(maps)[0]).any(1)  # [B, H, W]
    assert differs.nonzero()[:, 1:].tolist() == [[2, 3], [2, 3]]


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return result


def test_absi_needs_memory_in_proportion_to_the_positions():
    module = make(ABSI, num_heads=2)
    peaks = []
    for side in (32, 64):
        with LargestTensor() as largest:
            module(maps_of(*[(side, side)] * 3, batch=1))[0].sum().backward()
        peaks.append(largest.elements)
    assert peaks == [32 * 32 * 3 * 3 * CHANNELS, 64 * 64 * 3 * 3 * CHANNELS]


def slow_stage(stage, coarse, fine):
    both = torch.cat([coarse, fine], dim=1)
    fused = stage.mix(F.gelu(stage.reduce(both)))
    first, _, second, _ = stage.channel_attention.layers
    squeezed = fused.mean((2, 3), keepdim=True)
    fused = fused * torch.sigmoid(second(F.gelu(first(squeezed))))
    pooled = torch.stack([fused.mean(1), fused.max(1).values], dim=1)
    return fused * torch.sigmoid(stage.spatial_attention.conv(pooled))


def test_hierarchical_is_two_stages_and_the_residual():
    module = make(HierarchicalScaleIntegration)
    coarse, medium, fine = maps_of(*[(4, 6)] * 3)
    first = slow_stage(module.stages[0], coarse, medium)
    expected = medium + slow_stage(module.stages[1], first, fine)
    fused, aux = module([coarse, medium, fine])
    torch.testing.assert_close(fused, expected)
    assert aux == {}


@pytest.mark.parametrize("scales", [(0.5, 1.0), (1.0, 1.5), (0.5, 0.75, 1.0, 1.25, 1.5)])
def test_hierarchical_has_one_stage_less_than_scales(scales):
    module = make(HierarchicalScaleIntegration, scales=scales)
    maps = maps_of(*[(4, 6)] * len(scales))
    fused = maps[0]
    for stage, fine in zip(module.stages, maps[1:], strict=True):
        fused = slow_stage(stage, fused, fine)
    torch.testing.assert_close(module(maps)[0], maps[scales.index(1.0)] + fused)


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_has_the_size_of_the_full_scale(kind):
    assert make(kind)(maps_of(*PYRAMID))[0].shape == (2, CHANNELS, 4, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_scale_counts(kind):
    module, maps = make(kind), maps_of(*PYRAMID)
    fused, _ = module(maps)
    for i in range(3):
        changed = [one + (i == j) for j, one in enumerate(maps)]
        assert not torch.allclose(module(changed)[0], fused)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scale_of_no_weight_has_no_influence(kind):
    module, maps = make(kind), maps_of(*PYRAMID)
    weights = torch.tensor([[0.0, 1, 1], [1, 1, 0]]).double()
    changed = [maps[0].clone(), maps[1], maps[2].clone()]
    changed[0][0] += 1
    changed[2][1] += 1
    fused, aux = module(maps, weights)
    torch.testing.assert_close(module(changed, weights)[0], fused, rtol=0, atol=0)
    if kind is ABSI:
        torch.testing.assert_close(aux["scale_weights"].sum(1), torch.ones(2).double())
        assert ((aux["scale_weights"] > 0) == (weights > 0)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_one_change_nothing_and_weights_learn(kind):
    module, maps = make(kind), maps_of(*PYRAMID)
    weights = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    fused, _ = module(maps, weights)
    torch.testing.assert_close(fused, module(maps)[0])
    fused.square().sum().backward()
    assert (weights.grad != 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter_and_map(kind):
    module = make(kind)
    maps = [one.requires_grad_() for one in maps_of(*PYRAMID)]
    module(maps)[0].square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert all(one.grad.abs().sum() > 0 for one in maps)


@pytest.mark.parametrize("kind", KINDS)
def test_identity_start_gives_the_full_scale_and_can_leave_it(kind):
    module, maps = make(kind, start="identity"), maps_of(*PYRAMID)
    fused, _ = module(maps)
    torch.testing.assert_close(fused, maps[1], rtol=0, atol=0)
    fused.square().sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.01).step()
    assert not torch.allclose(module(maps)[0], maps[1])


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_maps_are_refused(kind):
    module = make(kind)
    with pytest.raises(ValueError, match="2 maps for the 3 scales"):
        module(maps_of(*PYRAMID)[:2])
    with pytest.raises(ValueError, match=r"1\.5x map has 7 channels"):
        module([*maps_of(*PYRAMID)[:2], torch.zeros(2, 7, 4, 6)])
    with pytest.raises(ValueError, match="at least 2"):
        make(kind, scales=[1.0])


@pytest.mark.parametrize("heads", [0, 3])
def test_heads_divide_the_channels(heads):
    with pytest.raises(ValueError, match=f"num_heads={heads}"):
        make(ABSI, num_heads=heads)


def absi_size(c, s=3):
    importance = s * c * s + s
    attention = s * (3 * c * c + 3 * c)
    return importance + attention + c * c + c


def hierarchical_size(c, s=3):
    reduce, mix = 2 * c * c + c, 9 * c * c + c
    channel = 2 * c * (c // 4) + c // 4 + c
    spatial = 2 * 7 * 7 + 1
    return (s - 1) * (reduce + mix + channel + spatial)


def deformable_size(c):
    return 9 * c * c + c + 9 * c * 18 + 18


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        (ABSI, absi_size),
        (HierarchicalScaleIntegration, hierarchical_size),
        (DeformableScaleIntegration, deformable_size),
    ],
)
@pytest.mark.parametrize("width", [1408, *PVT_V2_B2])
def test_the_number_of_parameters(kind, formula, width):
    with torch.device("meta"):
        module = kind(width)
    assert sum(one.numel() for one in module.parameters()) == formula(width)


def test_the_sizes_at_a_pyramid_of_pvt_v2_b2():
    assert sum(map(absi_size, PVT_V2_B2)) == 3_869_708
    assert sum(map(hierarchical_size, PVT_V2_B2)) == 8_863_000


def test_one_head_attends_too():
    module = make(ABSI, num_heads=1)
    assert module(maps_of(*PYRAMID))[0].isfinite().all()
