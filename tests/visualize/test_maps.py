"""Gate maps by hand, and pictures that come back from the transform."""

import numpy as np
import pytest
import torch
from PIL import Image

from gatedcir.data.transforms import make_transform
from gatedcir.visualize.maps import (
    cosine_map,
    feature_map,
    gate_map,
    is_one_vector,
    map_numbers,
    to_picture,
)


def test_a_gate_map_is_the_mean_over_channels_without_the_class_token():
    gate = torch.zeros(2, 5, 3)
    gate[:, 0] = 77  # the class token has no place in the image
    gate[0, 1:, 0] = torch.tensor([3.0, 6.0, 9.0, 12.0])
    gate[1, 4] = torch.tensor([1.0, 2.0, 6.0])
    assert gate_map(gate).tolist() == [[[1, 2], [3, 4]], [[0, 0], [0, 3]]]


def test_patches_run_along_rows():
    gate = torch.arange(10.0)[None, :, None].expand(1, 10, 4)
    assert gate_map(gate).tolist() == [[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]
    assert gate_map(torch.ones(3, 257, 2)).shape == (3, 16, 16)


@pytest.mark.parametrize("tokens", [3, 4, 7, 256, 258])
def test_patches_that_form_no_square_are_refused(tokens):
    with pytest.raises(ValueError, match=f"{tokens - 1} patches"):
        gate_map(torch.ones(1, tokens, 2))


@pytest.mark.parametrize("kind", ["targetpad", "squarepad", "clip"])
def test_a_picture_undoes_the_transform(kind):
    colours = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    transform = make_transform(kind, size=12)
    pixels = transform(Image.fromarray(colours))
    picture = to_picture(pixels, mean=transform.mean, std=transform.std)
    assert picture.shape == (12, 12, 3)
    np.testing.assert_allclose(picture.numpy() * 255, colours, atol=1e-3)


def test_a_picture_stays_within_the_colours():
    pixels = torch.tensor([-9.0, 0.0, 9.0])[:, None, None]
    picture = to_picture(pixels, mean=(0.5, 0.25, 0.5), std=(0.2, 0.2, 0.2))
    assert picture.tolist() == [[[0.0, 0.25, 1.0]]]


def test_few_high_patches_are_high_however_few_more_are_low():
    # Even steps, the highest a little above its place: standardised, the cubes add up to 0.7.
    values = torch.tensor([-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.25])
    scores = (values - values.mean()) / values.std(correction=0)
    assert 0 < scores.pow(3).sum() < 1
    for order in (slice(None), range(8, -1, -1)):  # the component comes with either sign
        tokens = torch.cat([torch.zeros(1), values[order]])[:, None]
        torch.testing.assert_close(feature_map(tokens).flatten(), scores[order])


def test_a_direction_that_differs_by_rounding_alone_is_one_vector():
    delta = torch.randn(8, generator=torch.Generator().manual_seed(0)).expand(17, 8)
    noise = torch.randn(17, 8, generator=torch.Generator().manual_seed(1))
    rounded = (delta + 1e-3 * noise).bfloat16()
    assert (rounded != rounded[0]).any() and is_one_vector(rounded)
    assert not is_one_vector(delta + 0.1 * noise)
    assert is_one_vector(torch.zeros(17, 8))


def test_a_cosine_is_that_of_each_patch_alone():
    delta, wanted = torch.randn(2, 10, 6, generator=torch.Generator().manual_seed(0))
    found = cosine_map(delta, wanted)
    expected = [
        float(d @ w) / float(d.norm() * w.norm())
        for d, w in zip(delta[1:], wanted[1:], strict=True)
    ]
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5)
    np.testing.assert_allclose(cosine_map(delta, 3 * delta), np.ones((3, 3)), rtol=1e-5)


def test_the_numbers_of_a_map_are_written_below_it():
    numbers = map_numbers(np.array([[0.0, 0.25], [0.5, 0.75]]))
    assert f"{numbers:.2f}" == "min 0.00, max 0.75\nmean 0.38"
    assert numbers.over_half == 0.25
