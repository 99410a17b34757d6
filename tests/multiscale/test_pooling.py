"""Windows and bins against loops over pixels."""

import pytest
import torch
from torch.nn import functional as F

from gatedcir.multiscale.pooling import MultiScalePooling, PyramidPooling, SpatialPyramidPooling

SIZES = [(6, 6), (5, 7), (1, 1), (2, 3)]
REDUCE = {"avg": lambda window: window.mean((-2, -1)), "max": lambda window: window.amax((-2, -1))}


def windows(x, size, reduce):
    """Every pixel's window of `size` pixels, as far as the map reaches, one after the other."""
    result = torch.empty_like(x)
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            top, left = max(0, row - size // 2), max(0, column - size // 2)
            bottom, right = row + (size - 1) // 2 + 1, column + (size - 1) // 2 + 1
            result[:, :, row, column] = reduce(x[:, :, top:bottom, left:right])
    return result


def bins(x, count, reduce):
    """Bins i of n cover pixels floor(i * H / n) to ceil((i + 1) * H / n)."""
    height, width = x.shape[-2:]
    result = x.new_empty(*x.shape[:2], count, count)
    for i in range(count):
        for j in range(count):
            rows = slice(i * height // count, -(-(i + 1) * height // count))
            columns = slice(j * width // count, -(-(j + 1) * width // count))
            result[:, :, i, j] = reduce(x[:, :, rows, columns])
    return result


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_multi_scale_pooling_is_every_window_one_after_the_other(kind, size):
    x = torch.randn(2, 3, *size)
    expected = torch.cat([windows(x, side, REDUCE[kind]) for side in (1, 2, 3, 6)], dim=1)
    found = MultiScalePooling(pool_type=kind)(x)
    assert found.shape == (2, 12, *size)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_spatial_pyramid_pooling_is_every_bin_one_after_the_other(kind, size):
    x = torch.randn(2, 3, *size)
    expected = [bins(x, count, REDUCE[kind]).flatten(1) for count in (1, 2, 4)]
    found = SpatialPyramidPooling(3, kind)(x)
    assert found.shape == (2, 3 * 21)
    torch.testing.assert_close(found, torch.cat(expected, dim=1))


def test_spatial_pyramid_pooling_by_hand():
    x = torch.tensor([[1.0, 2.0, 5.0], [3.0, 4.0, 9.0]]).view(1, 1, 2, 3)
    assert SpatialPyramidPooling(2)(x).tolist() == [[9.0, 2.0, 5.0, 4.0, 9.0]]


@pytest.mark.parametrize("size", SIZES)
def test_pyramid_pooling_mixes_the_map_with_its_bins(size):
    x = torch.randn(2, 5, *size)
    pooling = PyramidPooling(5, 4, [1, 2, 3])
    context = []
    for count, layer in zip((1, 2, 3), pooling.reductions, strict=True):
        grid = torch.einsum(
            "oi,bihw->bohw", layer[0].weight[:, :, 0, 0], bins(x, count, REDUCE["avg"])
        )
        grid = (grid + layer[0].bias[:, None, None]).relu()
        smaller = count > size[0] or count > size[1]
        context.append(
            F.interpolate(grid, size=size, mode="bilinear", antialias=smaller, align_corners=False)
        )
    joined = torch.cat([x, *context], dim=1)
    expected = torch.einsum("oi,bihw->bohw", pooling.mix.weight[:, :, 0, 0], joined)
    found = pooling(x)
    assert found.shape == (2, 4, *size)
    torch.testing.assert_close(found, expected + pooling.mix.bias[:, None, None])


def test_gradient_reaches_every_weight():
    torch.manual_seed(0)  # with others a ReLU may be closed everywhere
    pooling = PyramidPooling(8, 6)
    x = torch.randn(2, 8, 7, 7, requires_grad=True)
    pooling(x).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in [x, *pooling.parameters()])
    for parameterless in (MultiScalePooling(), SpatialPyramidPooling()):
        assert not list(parameterless.parameters())
        x.grad = None
        parameterless(x).sum().backward()
        assert x.grad.abs().sum() > 0


def test_pyramid_pooling_counts_at_the_towers_width():
    with torch.device("meta"):
        pooling = PyramidPooling(1408, 1408)
    reduced = 1408 // 4
    expected = 4 * (1408 * reduced + reduced) + (1408 + 4 * reduced) * 1408 + 1408
    assert sum(weight.numel() for weight in pooling.parameters()) == expected == 5_950_208


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiScalePooling(pool_type="sum"), "pool type 'sum'.*avg, max"),
        (lambda: SpatialPyramidPooling(pool_type="sum"), "pool type 'sum'.*avg, max"),
        (lambda: MultiScalePooling([]), "pool_sizes"),
        (lambda: PyramidPooling(4, 4, [1, 0]), "pool_sizes"),
        (lambda: SpatialPyramidPooling(0), "num_levels"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
