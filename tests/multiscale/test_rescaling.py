"""Several scales, one factor, halving: sizes, values, and the way back."""

import copy
from itertools import pairwise

import pytest
import torch

from gatedcir.multiscale.rescaling import (
    MultiScaleTransform,
    PyramidDownsample,
    Rescale,
    distinct_scales,
)


def counting(*shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (1, 2)])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_each_scale_has_its_size_and_the_inverse_the_original_one(mode, height, width):
    transform = MultiScaleTransform([1.0, 0.5, 0.25, 1.5], mode)
    x = torch.randn(2, 3, height, width)
    maps = transform(x)
    sizes = {(8, 8): [(8, 8), (4, 4), (2, 2), (12, 12)]}
    sizes |= {(7, 5): [(7, 5), (4, 3), (2, 1), (11, 8)], (1, 2): [(1, 2), (1, 1), (1, 1), (2, 3)]}
    assert [tuple(one.shape[-2:]) for one in maps] == sizes[height, width]
    assert torch.equal(maps[0], x)
    back = transform.inverse(maps, (height, width))
    assert [one.shape for one in back] == [x.shape] * 4


def test_values_worked_by_hand():
    ramp = counting(1, 1, 1, 4).expand(1, 1, 4, 4)
    assert Rescale(0.5, "nearest")(ramp)[0, 0, 0].tolist() == [0.0, 2.0]
    # Antialiased halving weighs (1, 3, 3, 1), without what lies outside: (0 * 3 + 1 * 3 + 2) / 7.
    expected = torch.tensor([5 / 7, 16 / 7])
    torch.testing.assert_close(Rescale(0.5)(ramp)[0, 0, 0], expected)
    # Bilinear doubling of (0, 4): samples at -0.25, 0.25, 0.75 and 1.25 of a pixel's distance.
    pair = torch.tensor([0.0, 4.0]).view(1, 1, 1, 2)
    assert Rescale(2.0)(pair)[0, 0, 0].tolist() == [0.0, 1.0, 3.0, 4.0]
    assert Rescale(0.5).inverse(pair)[0, 0, 0].tolist() == [0.0, 1.0, 3.0, 4.0]
    assert MultiScaleTransform([0.5]).inverse([pair], (1, 4))[0].flatten().tolist() == [0, 1, 3, 4]


def test_modes_differ_and_reach_both_directions():
    x = torch.randn(1, 1, 8, 8)
    modes = ("nearest", "bilinear", "bicubic")
    small = [Rescale(0.5, mode)(x) for mode in modes]
    large = [Rescale(0.5, mode).inverse(x) for mode in modes]
    back = [MultiScaleTransform([0.5], mode).inverse([x], (16, 16))[0] for mode in modes]
    for maps in (small, large, back):
        assert not any(torch.equal(a, b) for a, b in pairwise(maps))


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("factor", [0.5, 0.3, 1.5])
def test_the_inverse_gives_back_the_size_that_was_rounded(side, factor):
    x = torch.randn(1, 2, side, 8)
    rescale = Rescale(factor)
    small = rescale(x)
    assert rescale.inverse(small).shape == x.shape
    assert rescale.inverse(small, (9, 9)).shape == (1, 2, 9, 9)


def test_the_inverse_of_other_maps_divides_by_the_factor():
    rescale = Rescale(0.5)
    rescale(torch.randn(1, 2, 7, 8))
    assert rescale.inverse(torch.randn(1, 2, 3, 4)).shape == (1, 2, 6, 8)
    assert Rescale(0.5).inverse(torch.randn(1, 2, 4, 4)).shape == (1, 2, 8, 8)


def test_levels_of_the_pyramid_are_each_half_of_the_one_before():
    x = torch.randn(2, 3, 9, 6)
    pyramid = PyramidDownsample(4)
    levels = pyramid(x)
    assert [tuple(one.shape[-2:]) for one in levels] == [(9, 6), (5, 3), (3, 2), (2, 1)]
    assert torch.equal(levels[0], x)
    assert torch.equal(levels[2], Rescale(0.5)(Rescale(0.5)(x)))
    assert all(torch.equal(pyramid.get_level(level), levels[level]) for level in range(4))


def test_a_level_of_a_given_input_neither_reads_nor_changes_the_last_call():
    first, second = torch.randn(2, 1, 1, 8, 8)
    pyramid = PyramidDownsample(2)
    with pytest.raises(RuntimeError, match="PyramidDownsample has not been called yet"):
        pyramid.get_level(1)
    pyramid(first)
    assert torch.equal(pyramid.get_level(1, second), Rescale(0.5)(second))
    assert torch.equal(pyramid.get_level(1), Rescale(0.5)(first))


def test_a_copy_forgets_the_last_call():
    pyramid = PyramidDownsample(2)
    pyramid(torch.randn(1, 1, 4, 4, requires_grad=True) * 2)
    with pytest.raises(RuntimeError, match="not been called"):
        copy.deepcopy(pyramid).get_level(1)
    assert pyramid.get_level(1).shape == (1, 1, 2, 2)


def test_gradient_passes():
    for module in (MultiScaleTransform(), PyramidDownsample()):
        x = torch.randn(1, 1, 8, 8, requires_grad=True)
        sum(one.sum() for one in module(x)[1:]).backward()
        assert (x.grad > 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiScaleTransform(mode="area"), "'area'.*nearest, bilinear, bicubic"),
        (lambda: Rescale(mode="area"), "'area'.*nearest, bilinear, bicubic"),
        (lambda: PyramidDownsample(mode="area"), "'area'.*nearest, bilinear, bicubic"),
        (lambda: Rescale(0), "scale_factor"),
        (lambda: PyramidDownsample(0), "num_levels"),
        (lambda: PyramidDownsample(2).get_level(2, torch.ones(1, 1, 4, 4)), "level 2.*0 to 1"),
        (lambda: PyramidDownsample(2).get_level(-1, torch.ones(1, 1, 4, 4)), "level -1"),
        (lambda: MultiScaleTransform([]), "scales"),
        (lambda: MultiScaleTransform([1.0, 0.0]), "scales"),
        (lambda: distinct_scales([1.0, 1]), "different"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
