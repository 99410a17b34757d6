"""The design document on multi-level feature fusion in TensorFlow, with PyTorch's tensors."""

import pytest
import torch

from gatedcir.multiscale import (
    ListFusion,
    channel_attention_fusion,
    concat_fusion,
    fusion_attention,
    fusion_concatenation,
    fusion_weighted_sum,
    weighted_sum_fusion,
)
from gatedcir.multiscale.level_fusion import (
    Align,
    ChannelAttentionFusion,
    ConcatFusion,
    WeightedSumFusion,
)

FUNCTIONS = [concat_fusion, weighted_sum_fusion, channel_attention_fusion]


def normal(shape):
    return torch.randn(shape)


def test_example_1_concatenation_with_dimensionality_reduction():
    feature_maps = [
        normal((1, 100, 100, 128)),
        normal((1, 100, 100, 64)),
        normal((1, 100, 100, 32)),
    ]
    fused = fusion_concatenation(feature_maps)
    assert fused.shape == (1, 100, 100, 3 * 64)
    assert fused.min() == 0  # the ReLU


def test_example_2_weighted_summation():
    feature_maps = [normal((1, 100, 100, 64)), normal((1, 100, 100, 64))]
    fused = fusion_weighted_sum(feature_maps)
    assert fused.shape == (1, 100, 100, 64)


def test_example_3_simple_attention_mechanism():
    feature_maps = [normal((1, 100, 100, 64)), normal((1, 100, 100, 64))]
    fused = fusion_attention(feature_maps)
    assert fused.shape == (1, 100, 100, 1)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_code_examples_either_order_of_the_axes(function):
    first = [torch.randn(2, 5, 4, 6), torch.randn(2, 5, 4, 6)]
    last = [one.movedim(1, -1) for one in first]
    torch.manual_seed(0)
    expected = function(first)
    torch.manual_seed(0)
    torch.testing.assert_close(function(last, channels="last"), expected.movedim(1, -1))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("concat", ConcatFusion),
        ("weighted-sum", WeightedSumFusion),
        ("channel-attention", ChannelAttentionFusion),
    ],
)
def test_code_examples_are_the_strategies_of_the_pipeline(name, kind):
    """Maps of one size and width go through the strategy and nothing else."""
    maps = [torch.randn(2, 5, 4, 6), torch.randn(2, 5, 4, 6)]
    fuse, strategy = ListFusion(maps, name), kind(channels=[5, 5])
    strategy.load_state_dict(fuse.fusion.state_dict())
    assert torch.equal(fuse(maps), strategy(maps)[0])
    assert len(list(fuse.parameters())) == len(list(strategy.parameters()))


@pytest.mark.parametrize(
    ("function", "width"), list(zip([*FUNCTIONS, fusion_attention], [192, 8, 8, 1], strict=True))
)
def test_alignment_of_sizes_and_widths(function, width):
    """Section 1: levels of a backbone differ in both, and the first one's size is kept."""
    last = function is fusion_attention
    maps = [torch.randn(2, 8 * 2**i, 12 // 2**i, 8 // 2**i) for i in range(3)]
    fused = function([one.movedim(1, -1) for one in maps] if last else maps)
    assert (fused.movedim(-1, 1) if last else fused).shape == (2, width, 12, 8)


def test_alignment_is_that_of_its_class():
    """Section 1: bilinear upwards, max pooling downwards, then the 1x1 convolution."""
    maps = [torch.randn(1, 3, 4, 4), torch.randn(1, 5, 2, 2), torch.randn(1, 3, 8, 8)]
    fuse = ListFusion(maps, "weighted-sum")
    align = Align(channels=[3, 5, 3], width=3)
    align.projections.load_state_dict(fuse.projections.state_dict())
    assert torch.equal(fuse(maps), fuse.fusion(align(maps))[0])


@pytest.mark.parametrize("name", ["concat", "weighted-sum", "channel-attention"])
def test_strategies_learn(name):
    """Section 2: the weights are learned, so they are made once and stay."""
    torch.manual_seed(0)
    maps = [torch.randn(4, 3, 4, 4), torch.randn(4, 6, 2, 2)]
    fuse = ListFusion(maps, name)
    target = torch.randn(fuse(maps).shape)
    optimizer = torch.optim.Adam(fuse.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        loss = (fuse(maps) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(one.grad.abs().sum() > 0 for one in fuse.parameters())


def test_half_precision_is_kept():
    maps = [torch.randn(1, 3, 4, 4).bfloat16(), torch.randn(1, 6, 2, 2).bfloat16()]
    assert all(function(maps).dtype == torch.bfloat16 for function in FUNCTIONS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: concat_fusion([]), "list of maps is empty"),
        (lambda: ListFusion([torch.ones(1, 1, 1, 1)], "product"), "concat, weighted-sum"),
        (lambda: concat_fusion([torch.ones(1, 1, 1, 1)], channels="middle"), "first, last"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
