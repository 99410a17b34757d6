"""Deformable convolution against a plain one, and against sampling by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from gatedcir.multiscale.pyramids.scale_alignment import (
    DeformableConv2d,
    DeformableScaleIntegration,
)


def make(in_channels=3, out_channels=5, **settings):
    torch.manual_seed(0)
    return DeformableConv2d(in_channels, out_channels, **settings).double()


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 4)])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_it_starts_as_a_plain_convolution(size, kernel_size):
    module = make(kernel_size=kernel_size)
    maps = torch.randn(2, 3, *size).double()
    torch.testing.assert_close(module(maps), module.conv(maps))


def test_an_offset_of_one_pixel_shifts_the_map():
    module = make()
    with torch.no_grad():
        module.offsets.bias[0::2] = 1  # down
        module.offsets.bias[1::2] = -2  # right
    maps = torch.randn(2, 3, 6, 7).double()
    shifted = torch.zeros_like(maps)
    shifted[:, :, :-1, 2:] = maps[:, :, 1:, :-2]
    inner = (..., slice(1, -2), slice(3, -1))  # where no tap touches what the shift cut off
    expected = F.conv2d(shifted, module.conv.weight, module.conv.bias, padding=1)
    torch.testing.assert_close(module(maps)[inner], expected[inner])


def sample(plane, y, x):
    """Bilinear, zeros beyond the border."""
    total = 0.0
    top, left = math.floor(y), math.floor(x)
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                part = (1 - abs(y - row)) * (1 - abs(x - column))
                total += part * plane[row, column].item()
    return total


def test_learned_offsets_sample_between_the_pixels():
    module = make(2, 3)
    torch.nn.init.normal_(module.offsets.weight, std=0.3)
    maps = torch.randn(1, 2, 4, 3).double()
    result, moved = module(maps), module.offsets(maps)[0]
    for row in range(4):
        for column in range(3):
            expected = module.conv.bias.clone()
            for tap in range(9):
                y = row + tap // 3 - 1 + moved[2 * tap, row, column].item()
                x = column + tap % 3 - 1 + moved[2 * tap + 1, row, column].item()
                for channel in range(2):
                    weight = module.conv.weight[:, channel, tap // 3, tap % 3]
                    expected = expected + weight * sample(maps[0, channel], y, x)
            torch.testing.assert_close(result[0, :, row, column], expected)


def test_half_precision_keeps_exact_positions():
    module = make(8, 8).bfloat16()
    with torch.no_grad():
        module.conv.weight.zero_()
        module.conv.weight[range(8), range(8), 1, 1] = 1
        module.conv.bias.zero_()
    maps = torch.randn(1, 8, 40, 40).bfloat16()
    torch.testing.assert_close(module(maps), maps)


def test_the_integration_sums_the_aligned_scales():
    torch.manual_seed(0)
    module = DeformableScaleIntegration(4).double()
    maps = [torch.randn(2, 4, 5, 5).double() for _ in range(3)]
    fused, aux = module(maps)
    torch.testing.assert_close(fused, maps[1] + sum(module.align_conv.conv(one) for one in maps))
    assert aux == {}


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel_size 2"):
        make(kernel_size=2)
