"""The fusions of levels: alignment, tokens as maps, and the numbers of Keras layers.

fixtures/keras_level_fusion.json holds inputs, weights and outputs of the same three strategies
written with Keras 3.15.1 on its torch 2.13.0 backend, in its layout (maps [B, H, W, C], kernels
[..., in, out]): a Conv2D with kernel 1 and ReLU for each level and `concatenate`; for each level a
Dense without bias and with sigmoid on the level's mean, the levels multiplied and added; one Dense
with softmax on the means of the concatenated levels, multiplied, and all channels added. Biases and
kernels are normal random numbers. Keras itself is not needed here.
"""

import json
from pathlib import Path

import pytest
import torch

from gatedcir.models.visual_fusion.layers import TokenLevels
from gatedcir.multiscale.level_fusion import (
    Align,
    ChannelAttentionFusion,
    ConcatFusion,
    WeightedSumFusion,
    match_size,
)

FIXTURE = Path(__file__).parents[1] / "fixtures" / "keras_level_fusion.json"


@pytest.fixture(scope="module")
def keras():
    return json.loads(FIXTURE.read_text(encoding="utf-8"))


def channels_first(values):
    return torch.tensor(values).permute(0, 3, 1, 2)


def from_keras(case, make):
    """The module of the case's widths with its weights, its inputs, and what must come out."""
    maps = [channels_first(values) for values in case["inputs"]]
    module = make([level.shape[1] for level in maps])
    layers = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    with torch.no_grad():
        for layer, weights in zip(layers, case["weights"], strict=True):
            kernel = torch.tensor(weights[0])  # [..., in, out]
            layer.weight.copy_(kernel.reshape(kernel.shape[-2:]).T.reshape(layer.weight.shape))
            if len(weights) > 1:
                layer.bias.copy_(torch.tensor(weights[1]))
    return module, maps, channels_first(case["output"])


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("concat", lambda widths: ConcatFusion(channels=widths, reduced=3)),
        ("weighted_sum", lambda widths: WeightedSumFusion(channels=widths)),
        (
            "channel_attention",
            lambda widths: ChannelAttentionFusion(channels=widths, sum_channels=True),
        ),
    ],
)
def test_same_numbers_as_keras(name, make, keras):
    module, maps, expected = from_keras(keras[name], make)
    torch.testing.assert_close(module(maps)[0], expected, atol=1e-6, rtol=0)


def random_maps(channels, sizes, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, width, *size, generator=generator)
        for width, size in zip(channels, sizes, strict=True)
    ]


def filled(module, *, seed=0):
    """All parameters normal random numbers, so that none is zero by chance of the start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=generator)
    return module


def test_concat_puts_reduced_levels_side_by_side():
    module = ConcatFusion(channels=[2, 1], reduced=1)
    with torch.no_grad():
        for reduction, weight, bias in zip(module.reductions, (2.0, 3.0), (1.0, -9.0), strict=True):
            reduction.weight.fill_(weight)
            reduction.bias.fill_(bias)
    fused, aux = module([torch.ones(1, 2, 1, 2), torch.tensor([[[[2.0, 4.0]]]])])
    # 2 * (1 + 1) + 1 at both positions; 3 * 2 - 9 is cut off, 3 * 4 - 9 = 3.
    torch.testing.assert_close(fused, torch.tensor([[[[5.0, 5.0]], [[0.0, 3.0]]]]))
    assert aux == {}


def test_weighted_sum_weighs_each_level_by_its_own_mean():
    module = WeightedSumFusion(channels=[1, 1])
    with torch.no_grad():
        module.scores[0].weight.fill_(0.0)
        module.scores[1].weight.fill_(torch.tensor(3.0).log() / 2)
    first, second = torch.tensor([[[[2.0, 6.0]]]]), torch.tensor([[[[0.0, 4.0]]]])
    fused, aux = module([first, second])
    # The second's mean is 2: sigmoid(log 3) = 3 / 4.
    torch.testing.assert_close(aux["layer_weights"], torch.tensor([[0.5, 0.75]]))
    torch.testing.assert_close(fused, torch.tensor([[[[1.0, 6.0]]]]))


def test_channel_attention_keeps_the_width():
    module = filled(ChannelAttentionFusion(channels=[3, 3]))
    maps = random_maps([3, 3], [(2, 2)] * 2)
    fused, aux = module(maps)
    weights = aux["channel_weights"]  # [B, 6]
    expected = torch.zeros_like(fused)
    for b in range(2):
        for c in range(3):
            expected[b, c] = 3 * (weights[b, c] * maps[0][b, c] + weights[b, 3 + c] * maps[1][b, c])
    torch.testing.assert_close(fused, expected)
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    halves = torch.stack([weights[:, :3].sum(1), weights[:, 3:].sum(1)], dim=1)
    torch.testing.assert_close(aux["layer_weights"], halves)


def test_even_channel_weights_give_the_mean_of_the_levels():
    module = ChannelAttentionFusion(channels=[3, 3, 3])
    with torch.no_grad():
        module.scores.weight.zero_()
        module.scores.bias.zero_()
    maps = random_maps([3] * 3, [(2, 2)] * 3)
    torch.testing.assert_close(module(maps)[0], torch.stack(maps).mean(0))


def test_channel_sum_is_the_sum_of_what_keeps_the_width():
    wide, narrow = (
        filled(ChannelAttentionFusion(channels=[3, 3], sum_channels=flag)) for flag in (False, True)
    )
    maps = random_maps([3, 3], [(2, 2)] * 2)
    expected = wide(maps)[0].sum(1, keepdim=True) / 3
    torch.testing.assert_close(narrow(maps)[0], expected)
    assert narrow.out_channels == 1


def test_channel_sum_takes_any_widths():
    module = ChannelAttentionFusion(channels=[3, 1], sum_channels=True)
    fused, aux = module(random_maps([3, 1], [(2, 3)] * 2))
    assert fused.shape == (2, 1, 2, 3)
    assert aux["channel_weights"].shape == (2, 4)
    assert aux["layer_weights"].shape == (2, 2)


FUSIONS = {
    "concat": lambda channels: ConcatFusion(channels=channels, reduced=2),
    "weighted-sum": lambda channels: WeightedSumFusion(channels=channels),
    "channel-attention": lambda channels: ChannelAttentionFusion(channels=channels),
    "channel-sum": lambda channels: ChannelAttentionFusion(channels=channels, sum_channels=True),
}


@pytest.mark.parametrize("name", FUSIONS)
def test_aligned_maps_train_end_to_end(name):
    align = Align(channels=[5, 3, 4], width=4)
    fusion = FUSIONS[name]([4, 4, 4])
    module = filled(torch.nn.Sequential(align, fusion))
    maps = [m.requires_grad_() for m in random_maps([5, 3, 4], [(4, 4), (7, 5), (2, 2)])]
    fused, _ = module(maps)
    assert fused.shape == (2, fusion.out_channels, 4, 4)
    fused.pow(2).sum().backward()
    without = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(level.grad.any() for level in maps)


@pytest.mark.parametrize("name", FUSIONS)
def test_tokens_are_maps_of_one_column(name):
    """A square grid of tokens and the image's own: the same as one map of all positions."""
    torch.manual_seed(0)
    module = TokenLevels(FUSIONS[name]([4, 4]), width=4)
    levels = [torch.randn(2, 10, 4) for _ in range(2)]
    tokens, aux = module(levels)
    maps = [torch.stack([level[:, p] for p in range(10)], dim=2)[:, :, None] for level in levels]
    expected, expected_aux = module.fusion(maps)  # [B, C, 1, 10]
    for place in range(10):
        torch.testing.assert_close(tokens[:, place], module.projection(expected[:, :, 0, place]))
    assert set(aux) == set(expected_aux)
    for key, value in aux.items():
        torch.testing.assert_close(value, expected_aux[key])


def test_size_grows_bilinearly():
    grown = match_size(torch.tensor([[[[0.0, 4.0]]]]), (1, 4))
    torch.testing.assert_close(grown, torch.tensor([[[[0.0, 1.0, 3.0, 4.0]]]]))


def test_size_shrinks_by_maximum_or_average():
    maps = torch.tensor([[[[0.0, 8.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]])
    torch.testing.assert_close(match_size(maps, (1, 2)), torch.tensor([[[[8.0, 0.0]]]]))
    averaged = match_size(maps, (1, 2), down="antialias")
    assert 0 < averaged[0, 0, 0, 1] < averaged[0, 0, 0, 0] < 8


def test_size_may_shrink_on_one_side_and_grow_on_the_other():
    maps = torch.tensor([[[[0.0, 4.0], [2.0, 0.0]]]])
    torch.testing.assert_close(match_size(maps, (1, 4)), torch.tensor([[[[2.0, 2.5, 3.5, 4.0]]]]))


def test_aligned_maps_stay_as_they_are():
    maps = random_maps([4, 4], [(3, 3)] * 2)
    module = Align(channels=[4, 4], width=4)
    assert not list(module.parameters())
    assert all(torch.equal(a, b) for a, b in zip(module(maps), maps, strict=True))


@pytest.mark.parametrize("down", ["max", "antialias"])
def test_alignment_resizes_first_and_then_projects(down):
    module = Align(channels=[2, 3], width=3, down=down)
    maps = random_maps([2, 3], [(3, 3), (6, 5)])
    first, second = module(maps, (2, 4))
    projection = module.projections[0]
    weight, bias = projection.weight[..., 0, 0], projection.bias
    resized = match_size(maps[0], (2, 4), down=down)
    expected = torch.einsum("oc,bchw->bohw", weight, resized) + bias[:, None, None]
    torch.testing.assert_close(first, expected)
    assert torch.equal(second, match_size(maps[1], (2, 4), down=down))


def test_refusals():
    with pytest.raises(ValueError, match="down='mean'"):
        Align(channels=[3], width=3, down="mean")
    with pytest.raises(ValueError, match="down='mean'"):
        match_size(torch.ones(1, 1, 4, 4), (2, 2), down="mean")
    with pytest.raises(ValueError, match=r"widths \[3\] reduced to 0 channels"):
        ConcatFusion(channels=[3], reduced=0)
    with pytest.raises(ValueError, match="1 maps, and an alignment of 2"):
        Align(channels=[3, 3], width=3)(random_maps([3], [(2, 2)]))
    for kind in (WeightedSumFusion, ChannelAttentionFusion):
        with pytest.raises(ValueError, match=r"widths \[3, 4\] cannot be added"):
            kind(channels=[3, 4])


@pytest.mark.parametrize("name", FUSIONS)
def test_refuses_maps_it_was_not_built_for(name):
    module = FUSIONS[name]([3, 3])
    with pytest.raises(ValueError, match=r"widths \[3, 2\] in a fusion of the widths \[3, 3\]"):
        module(random_maps([3, 2], [(2, 2)] * 2))
    with pytest.raises(ValueError, match="align them first"):
        module(random_maps([3, 3], [(2, 2), (2, 3)]))
