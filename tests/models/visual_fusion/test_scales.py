"""The fusions of token maps at several scales."""

import pytest
import torch
import torch.nn.functional as F

from gatedcir.models.visual_fusion.scales import SCALE_FUSIONS
from gatedcir.multiscale.maps import to_map

WIDTH, SIDES = 8, (2, 4, 6)
INTEGRATED = ["absi", "hierarchical", "deformable"]


def make(name, **settings):
    torch.manual_seed(0)
    return SCALE_FUSIONS[name](**{"width": WIDTH, **settings}).double()


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, 1 + side**2, WIDTH, generator=generator, dtype=torch.float64)
        for side in SIDES
    ]


def test_the_names():
    assert list(SCALE_FUSIONS) == ["none", "mean", "concat", *INTEGRATED]


@pytest.mark.parametrize("name", SCALE_FUSIONS)
def test_the_result_is_on_the_grid_of_the_full_scale(name, tokens):
    fused, aux = make(name)(tokens)
    assert fused.shape == (2, 17, WIDTH)
    assert set(aux) == ({"scale_weights"} if name == "absi" else set())
    if aux:
        assert aux["scale_weights"].shape == (2, 3)


def test_none_is_the_full_scale(tokens):
    assert make("none")(tokens)[0] is tokens[1]
    assert make("none", scales=[1.0])(tokens[1:2])[0] is tokens[1]


def test_mean_is_over_the_scales_by_position(tokens):
    fused, _ = make("mean")(tokens)
    torch.testing.assert_close(fused[:, 0], sum(one[:, 0] for one in tokens) / 3)
    maps = [to_map(one)[1] for one in tokens]
    small = F.interpolate(maps[0], (4, 4), mode="bilinear")
    large = F.interpolate(maps[2], (4, 4), mode="bilinear", antialias=True)
    expected = (small + maps[1] + large) / 3
    torch.testing.assert_close(fused[:, 1:], expected.flatten(2).mT)


def test_concat_is_one_linear_layer_over_all_scales_at_a_place(tokens):
    module = make("concat")
    fused, _ = module(tokens)
    mix = module.fusion.fusion.fusion.mix
    weight = mix.weight[..., 0, 0]
    images = torch.cat([one[:, 0] for one in tokens], dim=-1)
    torch.testing.assert_close(fused[:, 0], images @ weight.T + mix.bias)
    maps = [to_map(one)[1] for one in tokens]
    small = F.interpolate(maps[0], (4, 4), mode="bilinear")
    large = F.interpolate(maps[2], (4, 4), mode="bilinear", antialias=True)
    places = torch.cat([small, maps[1], large], dim=1).flatten(2).mT
    torch.testing.assert_close(fused[:, 1:], places @ weight.T + mix.bias)


@pytest.mark.parametrize("name", INTEGRATED)
def test_integrated_tokens_are_the_integration_of_normalized_maps(name, tokens):
    module = make(name)
    torch.nn.init.normal_(module.norm.weight)
    fused, aux = module(tokens)
    normed = [F.layer_norm(one, [WIDTH]) * module.norm.weight for one in tokens]
    maps = [to_map(one)[1] for one in normed]
    whole, expected_aux = module.integration(maps)
    expected = tokens[1][:, 1:] + (whole - maps[1]).flatten(2).mT
    torch.testing.assert_close(fused[:, 1:], expected)
    torch.testing.assert_close(aux, expected_aux)
    points = [one[:, 0, :, None, None] for one in normed]
    update = module.integration(points)[0] - points[1]
    torch.testing.assert_close(fused[:, 0], tokens[1][:, 0] + update[..., 0, 0])


@pytest.mark.parametrize("name", INTEGRATED)
def test_identity_start_gives_the_full_scale(name, tokens):
    fused, _ = make(name, start="identity")(tokens)
    torch.testing.assert_close(fused, tokens[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", INTEGRATED)
def test_gradients_reach_every_parameter(name, tokens):
    module = make(name)
    module(tokens)[0].square().sum().backward()
    for parameter_name, parameter in module.named_parameters():
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", SCALE_FUSIONS)
def test_wrong_tokens_are_refused(name, tokens):
    with pytest.raises(ValueError, match="2 token maps"):
        make(name)(tokens[:2])
    with pytest.raises(ValueError, match=r"0\.5x tokens are 8 wide, not 16"):
        make(name, width=16)(tokens)
    with pytest.raises(ValueError, match=r"hold 1\.0"):
        make(name, scales=[0.5, 1.5])
    if name != "none":
        with pytest.raises(ValueError, match="form a square"):
            make(name)([tokens[0], tokens[1], tokens[2][:, :-1]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", 0),
        ("mean", 0),
        ("absi", 2 * 1408 + 10 * 1408**2 + (9 + 9 + 1) * 1408 + 3),
        ("hierarchical", 2 * 1408 + 2 * (11 * 1408**2 + 2 * 1408 + 2 * 1408 * 352 + 1760 + 99)),
        ("deformable", 2 * 1408 + 9 * 1408**2 + 1408 + 9 * 1408 * 18 + 18),
    ],
)
def test_the_number_of_parameters_of_token_fusions(name, expected):
    with torch.device("meta"):
        module = SCALE_FUSIONS[name](width=1408)
    assert sum(one.numel() for one in module.parameters()) == expected
