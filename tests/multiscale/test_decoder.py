"""The decoder against its steps, written out."""

import pytest
import torch
from torch.nn import functional as F

from gatedcir.multiscale import DecoderModule


def test_it_goes_from_coarse_to_fine():
    torch.manual_seed(0)
    decoder = DecoderModule([2, 3, 4])
    fine, middle, coarse = (
        torch.randn(2, width, side, side + 1) for width, side in ((2, 9), (3, 5), (4, 2))
    )

    def enlarge(x, like):
        return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)

    expected = decoder.steps[1](torch.cat([middle, enlarge(coarse, middle)], 1))
    expected = decoder.steps[0](torch.cat([fine, enlarge(expected, fine)], 1))
    found = decoder([fine, middle, coarse])
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    assert all(one.grad.abs().sum() > 0 for one in decoder.parameters())


def test_a_single_level_stays_as_it_is():
    level = torch.randn(1, 2, 3, 3)
    assert DecoderModule([2])([level]) is level


def test_bad_arguments():
    with pytest.raises(ValueError, match="dims is empty"):
        DecoderModule([])
    with pytest.raises(ValueError, match=r"features of \[2\] channels given, \[2, 3\] expected"):
        DecoderModule([2, 3])([torch.randn(1, 2, 3, 3)])
