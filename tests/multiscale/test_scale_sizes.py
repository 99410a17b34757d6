"""Scales are checked, and sizes are multiples."""

import pytest

from gatedcir.multiscale.scale_sizes import check_scales, scaled_size, warn_of_equal_sizes


@pytest.mark.parametrize(
    ("size", "scale", "multiple", "expected"),
    [
        ((352, 352), 0.5, 32, (160, 160)),  # 176, halfway, goes down as 528 does
        ((352, 352), 1.0, 32, (352, 352)),
        ((352, 352), 1.5, 32, (512, 512)),
        ((800, 800), 1.1, 32, (864, 864)),  # a little more than halfway, by rounding alone
        ((350, 353), 1.0, 32, (352, 352)),
        ((224, 224), 0.5, 14, (112, 112)),
        ((224, 224), 1.5, 14, (336, 336)),
        ((5, 300), 0.5, 32, (32, 160)),
    ],
)
def test_sizes_are_the_nearest_multiples(size, scale, multiple, expected):
    assert scaled_size(size, scale, multiple) == expected


@pytest.mark.parametrize("wrong", [((0, 8), 1.0, 8), ((8, 8), 0.0, 8), ((8, 8), 1.0, -1)])
def test_sizes_are_positive(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        scaled_size(*wrong)


def test_scales_become_a_tuple():
    assert check_scales([1, 1.5]) == (1.0, 1.5)
    assert check_scales([1, 1.5], at_least=2) == (1.0, 1.5)
    assert check_scales([1]) == (1.0,)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ((), "at least 1"),
        ((1.0, 0.5), "ascend"),
        ((1.0, 1.0), "ascend"),
        ((-0.5, 1.0), "positive"),
        ((0.5, 1.5), r"hold 1\.0"),
    ],
)
def test_scales_ascend_and_hold_one(scales, message):
    with pytest.raises(ValueError, match=message):
        check_scales(scales)


def test_a_number_of_scales_can_be_asked_for():
    with pytest.raises(ValueError, match="at least 2"):
        check_scales([1.0], at_least=2)


@pytest.mark.parametrize("scales", [(1.0, 1.0001), (0.9, 1.0), (0.5, 1.0, 1.14)])
def test_similar_scales_are_warned_of_by_name(scales):
    with pytest.warns(UserWarning, match=f"scales {scales[-2]} and {scales[-1]} are too similar"):
        assert check_scales(scales) == scales


@pytest.mark.filterwarnings("error")
def test_scales_that_differ_are_not_warned_of():
    check_scales((0.5, 0.75, 1.0, 1.25, 1.5))
    check_scales((1.0, 1.15))
    warn_of_equal_sizes((0.5, 1.0, 1.5), (64, 64), 32)


def test_scales_of_equal_sizes_are_warned_of_by_name():
    with pytest.warns(
        UserWarning, match=r"scales 0\.5 and 1\.0 both read .* 40x32 pixels at 32x32"
    ):
        warn_of_equal_sizes((0.5, 1.0, 2.0), (40, 32), 32)
