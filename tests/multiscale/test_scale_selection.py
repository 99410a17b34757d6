"""The selector chooses by image, keeps 1.0x, and learns."""

import pytest
import torch

from gatedcir.multiscale.pyramids.scale_selection import AdaptiveScaleSelector


@pytest.fixture
def selector():
    """Red images ask for 0.5x, blue ones for 1.5x; nothing asks for 1.0x."""
    module = AdaptiveScaleSelector()
    linear = module.layers[2]
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[4.0, 0, 0], [0, 0, 0], [0, 0, 4]]))
        linear.bias.copy_(torch.tensor([-2.0, -9, -2]))
    return module


@pytest.fixture
def images():
    """Red, blue, black."""
    images = torch.zeros(3, 3, 4, 4)
    images[0, 0] = images[1, 2] = 1
    return images


def test_scales_are_chosen_by_image_and_the_full_one_stays(selector, images):
    weights, aux = selector(images)
    assert weights.tolist() == [[1, 1, 0], [0, 1, 1], [0, 1, 0]]
    expected = torch.sigmoid(torch.tensor([[2.0, -9, -2], [-2, -9, 2], [-2, -9, -2]]))
    torch.testing.assert_close(aux["scale_importance"], expected)
    assert selector.active_scales(images) == [[0.5, 1.0], [1.0, 1.5], [1.0]]


def test_a_lower_threshold_lets_more_in(selector, images):
    selector.threshold = 0.1
    assert selector.active_scales(images) == [[0.5, 1.0, 1.5]] * 3


def test_the_gradient_is_that_of_the_importance_where_a_scale_is_out_too(selector, images):
    weights, aux = selector(images)
    weights[2, 0].backward()  # out
    importance = aux["scale_importance"][2, 0].item()
    torch.testing.assert_close(
        selector.layers[2].bias.grad, torch.tensor([importance * (1 - importance), 0, 0])
    )


def test_the_number_of_parameters():
    with torch.device("meta"):
        selector = AdaptiveScaleSelector()
    assert sum(one.numel() for one in selector.parameters()) == 3 * 3 + 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"threshold": 1.0}, "threshold 1"), ({"scales": (0.5, 1.5)}, r"hold 1\.0")],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveScaleSelector(**settings)
