"""Every neck: tokens in, tokens out; what it changes, and what it leaves."""

import pytest
import torch

from gatedcir.models.visual_fusion.neck_args import read_neck_args
from gatedcir.models.visual_fusion.necks import NECKS
from gatedcir.multiscale.maps import to_map

REAL = sorted(set(NECKS) - {"none"})


@pytest.mark.parametrize("side", [2, 3, 8, 16])
@pytest.mark.parametrize("name", NECKS)
def test_tokens_keep_their_shape_and_the_images_own_token_its_value(name, side):
    tokens = torch.randn(2, 1 + side * side, 16)
    found, aux = NECKS[name](width=16)(tokens)
    assert found.shape == tokens.shape
    assert torch.equal(found[:, 0], tokens[:, 0])
    assert torch.equal(found, tokens) == (name == "none")
    assert set(aux) == ({"neck_weights"} if name == "multi-scale" else set())


def test_weights_of_the_scales_are_one_a_patch_and_sum_to_one():
    weights = NECKS["multi-scale"](width=16)(torch.randn(2, 1 + 25, 16))[1]["neck_weights"]
    assert weights.shape == (2, 3, 5, 5)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 5, 5))


def inner(neck, patches):
    """What the neck's network makes of the patches as a picture."""
    if hasattr(neck, "summary"):
        return patches + neck.summary(patches)[:, :, None, None]
    network = neck.pooling if hasattr(neck, "pooling") else neck.network
    return getattr(neck, "widen", torch.nn.Identity())(network(patches))


@pytest.mark.parametrize("name", REAL)
def test_patches_are_seen_as_the_picture_they_are(name):
    neck = NECKS[name](width=8)
    picture = torch.randn(2, 8, 4, 4)
    rows = picture.permute(0, 2, 3, 1).reshape(2, 16, 8)
    found, _ = neck(torch.cat([torch.zeros(2, 1, 8), rows], dim=1))
    torch.testing.assert_close(to_map(found)[1], inner(neck, picture))


@pytest.mark.parametrize("name", REAL)
def test_a_neck_keeps_nothing_of_its_input(name):
    neck = NECKS[name](width=8)
    neck(torch.randn(1, 17, 8))
    assert all(getattr(module, "_last", None) is None for module in neck.modules())


@pytest.mark.parametrize("name", REAL)
def test_gradient_reaches_every_weight_at_the_tiny_towers_size(name):
    torch.manual_seed(0)
    neck = NECKS[name](width=128)
    tokens = torch.randn(2, 65, 128, requires_grad=True)
    neck(tokens)[0].square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in [tokens, *neck.parameters()])


def conv(before, after, kernel, bias=True):
    return kernel**2 * before * after + bias * after


def norm_block(before, after):
    return conv(before, after, 3, bias=False) + 2 * after


def two_blocks(before, after):
    return norm_block(before, after) + norm_block(after, after)


WIDTH = 1408
COUNTS = {
    "none": 0,
    "pyramid-pooling": 4 * conv(WIDTH, WIDTH // 4, 1) + conv(2 * WIDTH, WIDTH, 1),
    "unet": two_blocks(WIDTH, 128)
    + two_blocks(128, 256)
    + two_blocks(256, 512)
    + conv(512, 256, 2)
    + two_blocks(512, 256)
    + conv(256, 128, 2)
    + two_blocks(256, 128)
    + conv(128, WIDTH, 1),
    "pyramid": norm_block(WIDTH, 128)
    + norm_block(128, 256)
    + norm_block(256, 512)
    + sum(conv(before, 128, 1) for before in (128, 256, 512))
    + conv(128, WIDTH, 3),
    "spatial-pyramid-pooling": conv(WIDTH, 128, 1) + 21 * 128 * WIDTH + WIDTH,
    "multi-scale-pooling": conv(WIDTH, 128, 1) + conv(4 * 128, WIDTH, 1),
    "multi-scale": conv(WIDTH, 128, 1) + norm_block(128, 128) + conv(2, 1, 7) + conv(128, WIDTH, 1),
}


@pytest.mark.parametrize("name", NECKS)
def test_counts_at_the_towers_width(name):
    with torch.device("meta"):
        neck = NECKS[name](width=WIDTH)
        found, _ = neck(torch.empty(1, 257, WIDTH))
    assert found.shape == (1, 257, WIDTH)
    assert sum(weight.numel() for weight in neck.parameters()) == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "words", "found"),
    [
        ("pyramid", ["num_levels=2"], {"num_levels": 2}),
        ("pyramid", ["num-levels=2"], {"num_levels": 2}),
        ("multi-scale", ["scales=1,0.5"], {"scales": (1.0, 0.5)}),
        (
            "multi-scale-pooling",
            ["pool_sizes=[1, 3]", "pool_type=max"],
            {"pool_sizes": (1, 3), "pool_type": "max"},
        ),
        ("none", [], {}),
    ],
)
def test_arguments_are_read_in_their_types(name, words, found):
    assert read_neck_args(name, words) == found
    assert [type(value) for value in read_neck_args(name, words).values()] == [
        type(value) for value in found.values()
    ]


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        (
            "pyramid",
            ["levels=2"],
            "levels=2 is no argument of the neck pyramid, which takes num_le",
        ),
        ("pyramid", ["num_levels"], "num_levels is no argument"),
        ("none", ["num_levels=2"], "takes none"),
        ("pyramid", ["num_levels=two"], "num_levels=two is not a number"),
        ("pyramid", ["num_levels=1,2"], "takes one value"),
        ("pyramid", ["num_levels=0"], "num_levels must be at least 1"),
        ("pyramid", ["num_levels=1", "num_levels=2"], "given twice"),
        ("pyramid-pooling", ["pool_sizes=1,x"], "is not numbers"),
        ("multi-scale-pooling", ["pool_type=sum"], "avg, max"),
    ],
)
def test_arguments_that_a_neck_refuses(name, words, message):
    with pytest.raises(ValueError, match=message):
        read_neck_args(name, words)


def test_patches_that_form_no_square_are_refused():
    for name in REAL:
        with pytest.raises(ValueError, match="6 patches do not form a square"):
            NECKS[name](width=8)(torch.randn(1, 7, 8))
