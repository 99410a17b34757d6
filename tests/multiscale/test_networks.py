"""The multi-scale networks against their equations, written out on their weights."""

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gatedcir.multiscale.networks import MultiScaleModel, PyramidNetwork, UNet

SIZES = [(8, 8), (7, 5), (2, 2), (1, 3)]


def weights_of(network):
    """A copy whose normalisations scale and shift, so that a reference must use them."""
    torch.manual_seed(1)
    for name, weight in network.named_parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, mean=0.1 if "bias" in name else 1.0, std=0.3)
    return {name: weight.detach() for name, weight in network.named_parameters()}


def block(x, weights, name, first=0, stride=1):
    """relu(scale * (y - mean y) / std y + shift) of y, a 3x3 convolution of x."""
    y = F.conv2d(x, weights[f"{name}.{first}.weight"], padding=1, stride=stride)
    mean = y.mean((1, 2, 3), keepdim=True)
    variance = (y - mean).square().mean((1, 2, 3), keepdim=True)
    scale, shift = (weights[f"{name}.{first + 1}.{kind}"] for kind in ("weight", "bias"))
    y = (y - mean) / (variance + 1e-5).sqrt()
    return (y * scale[:, None, None] + shift[:, None, None]).relu()


def dense(x, weights, name, padding=0):
    return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)


def enlarge(x, like):
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("size", SIZES)
def test_pyramid_network_goes_down_and_back_up(size):
    network = PyramidNetwork(3, 5, num_levels=3, base_channels=4)
    weights = weights_of(network)
    x = torch.randn(2, 3, *size)
    fine = block(x, weights, "stages.0")
    middle = block(fine, weights, "stages.1", stride=2)
    coarse = block(middle, weights, "stages.2", stride=2)
    top = dense(coarse, weights, "laterals.2")
    between = enlarge(top, middle) + dense(middle, weights, "laterals.1")
    below = enlarge(between, fine) + dense(fine, weights, "laterals.0")
    up = dense(below, weights, "head", padding=1)
    found = network(x)
    assert found.shape == (2, 5, *size)
    torch.testing.assert_close(found, up, atol=1e-5, rtol=1e-5)
    for levels, all_expected in (
        (network.get_features(), (fine, middle, coarse)),
        (network.get_features(merged=True), (below, between, top)),
        (network.get_features(x, merged=True), (below, between, top)),
    ):
        for level, expected in zip(levels, all_expected, strict=True):
            torch.testing.assert_close(level, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_unet_goes_down_and_back_up_along_its_skips(size):
    network = UNet(3, 2, [4, 6])
    weights = weights_of(network)

    def two(x, name):
        return block(block(x, weights, name), weights, name, first=3)

    def halve(x):
        """The maximum of each 2x2, as far as the map reaches."""
        odd = (0, x.shape[3] % 2, 0, x.shape[2] % 2)
        x = F.pad(x, odd, value=-torch.inf)
        return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))

    def double(x, name, like):
        """Each pixel becomes 2x2 pixels with a matrix each; what is too much at the end goes."""
        y = torch.einsum("bihw,iokl->bohkwl", x, weights[f"{name}.weight"]).flatten(4, 5)
        y = y.flatten(2, 3) + weights[f"{name}.bias"][:, None, None]
        return y[..., : like.shape[2], : like.shape[3]]

    x = torch.randn(2, 3, *size)
    fine = two(x, "encoder.0")
    coarse = two(halve(fine), "encoder.1")
    bottom = two(halve(coarse), "bottom")
    up_coarse = two(torch.cat([coarse, double(bottom, "ups.0", coarse)], 1), "decoder.0")
    up_fine = two(torch.cat([fine, double(up_coarse, "ups.1", fine)], 1), "decoder.1")
    found = network(x)
    assert found.shape == (2, 2, *size)
    torch.testing.assert_close(found, dense(up_fine, weights, "head"), atol=1e-5, rtol=1e-5)
    for getter, expected in (
        (network.get_encoder_features, (fine, coarse)),
        (network.get_decoder_features, (up_fine, up_coarse)),
    ):
        for level, one in zip(getter(), expected, strict=True):
            torch.testing.assert_close(level, one, atol=1e-5, rtol=1e-5)


def scaled_by_hand(x, side):
    return F.interpolate(x, size=side, mode="bilinear", antialias=True, align_corners=False)


@pytest.mark.parametrize("side", [8, 5, 1])
def test_multi_scale_model_applies_its_base_model_at_every_scale(side):
    base = torch.nn.Conv2d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, side, side)
    small = base(scaled_by_hand(x, {8: 4, 5: 3, 1: 1}[side]))
    results = [base(x), enlarge(small, x)]
    concat = MultiScaleModel([1.0, 0.5], base)(x)
    torch.testing.assert_close(concat, torch.cat(results, dim=1))
    torch.testing.assert_close(MultiScaleModel([1.0, 0.5], base, "sum")(x), sum(results))
    model = MultiScaleModel([1.0, 0.5], base, "attention")
    fused, aux = model.compute(x)
    assert torch.equal(model(x), fused)
    scores = [model.attention(result) for result in results]
    expected = sum(s * result for s, result in zip(scores, results, strict=True)) / sum(scores)
    torch.testing.assert_close(fused, expected)
    torch.testing.assert_close(aux["weights"].sum(1), torch.ones(2, side, side))


def test_the_size_is_that_of_the_scale_nearest_to_one():
    halving = torch.nn.MaxPool2d(2)
    assert MultiScaleModel([2.0, 1.0], halving)(torch.ones(1, 2, 8, 8)).shape == (1, 4, 4, 4)
    constant = torch.full((1, 1, 3, 3), 2.0)
    assert torch.equal(MultiScaleModel(fusion_method="sum")(constant), constant * 3)


@pytest.mark.parametrize("method", ["concat", "sum", "attention"])
def test_scales_come_and_go_and_weights_stay(method):
    model = MultiScaleModel([1.0, 0.5], torch.nn.Conv2d(3, 4, 1), method)
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(1, 3, 8, 8)
    expected = model(x)
    model.add_scale(0.25)
    assert model.scales == [1.0, 0.5, 0.25]
    more = model(x)
    assert more.shape == (1, 12 if method == "concat" else 4, 8, 8)
    if method == "concat":
        assert torch.equal(more[:, :8], expected)
    else:
        assert not torch.allclose(more, expected)
    model.remove_scale(0.25)
    assert torch.equal(model(x), expected)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "network",
    [
        PyramidNetwork(3, 4, 3, 8),
        UNet(3, 4, [8, 8]),
        MultiScaleModel([1.0, 0.5], torch.nn.Conv2d(3, 4, 1), "attention"),
    ],
    ids=["pyramid", "unet", "multi-scale"],
)
@pytest.mark.parametrize("side", [8, 7])
def test_gradient_reaches_every_weight_and_is_the_same_when_recomputed(network, side):
    x = torch.randn(2, 3, side, side)
    network.zero_grad()
    network(x).square().sum().backward()
    found = [weight.grad.clone() for weight in network.parameters()]
    assert all(gradient.abs().sum() > 0 for gradient in found)
    network.zero_grad()
    checkpoint(network, x, use_reentrant=False).square().sum().backward()
    for weight, gradient in zip(network.parameters(), found, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


def test_an_image_does_not_see_its_neighbours_in_the_batch():
    for network in (PyramidNetwork(3, 4, 2, 4), UNet(3, 4, [4])):
        x = torch.randn(2, 3, 6, 6)
        torch.testing.assert_close(network(x)[:1], network(x[:1]))


def test_features_of_the_last_call_keep_their_graph_and_stay_out_of_copies():
    network = PyramidNetwork(3, 4, 2, 4)
    x, other = torch.randn(2, 1, 3, 6, 6)
    with pytest.raises(RuntimeError, match="PyramidNetwork has not been called yet"):
        network.get_features()
    network(x)
    kept = network.get_features()
    assert torch.equal(network.get_features(other)[1], network.compute(other)[1]["levels"][1])
    assert network.get_features()[1] is kept[1]
    kept[1].sum().backward()
    assert network.stages[0][0].weight.grad.abs().sum() > 0
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(x), network(x))
    with pytest.raises(RuntimeError, match="not been called"):
        copy.deepcopy(network).get_features()


def test_counts_at_the_towers_width():
    def conv(before, after, kernel, bias=True):
        return kernel**2 * before * after + bias * after

    def norm_block(before, after):
        return conv(before, after, 3, bias=False) + 2 * after

    def total(make):
        with torch.device("meta"):
            return sum(weight.numel() for weight in make().parameters())

    down = norm_block(1408, 64) + norm_block(64, 128) + norm_block(128, 256)
    lateral = conv(64, 64, 1) + conv(128, 64, 1) + conv(256, 64, 1)
    pyramid = down + lateral + conv(64, 1408, 3)
    assert total(lambda: PyramidNetwork(1408, 1408)) == pyramid
    down = norm_block(1408, 8) + norm_block(8, 8) + norm_block(8, 16) + norm_block(16, 16)
    up = conv(16, 8, 2) + norm_block(16, 8) + norm_block(8, 8) + conv(8, 1408, 1)
    assert total(lambda: UNet(1408, 1408, [8])) == down + up
    base = conv(1408, 1408, 1)

    def scales():
        return MultiScaleModel(base_model=torch.nn.Conv2d(1408, 1408, 1), fusion_method="attention")

    assert total(scales) == base + 2 * 7 * 7 + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiScaleModel(fusion_method="product"), "'product'.*concat, sum, attention"),
        (lambda: MultiScaleModel([0.5, 0.5]), "scales"),
        (lambda: MultiScaleModel().add_scale(0.5), "different"),
        (lambda: MultiScaleModel().add_scale(-1.0), "above 0"),
        (lambda: MultiScaleModel().remove_scale(0.75), "no scale 0.75"),
        (lambda: MultiScaleModel([1.0]).remove_scale(1.0), "at least one"),
        (lambda: PyramidNetwork(3, 3, 0), "num_levels"),
        (lambda: UNet(3, 3, []), "features"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
