"""The loss of predictions at several scales by hand-made numbers."""

import pytest
import torch
from torch import nn

from gatedcir.multiscale.pyramids.scale_loss import ScaleAwareLoss, resize_target, scale_consistency


def predictions(*values, sides=(2, 4, 6)):
    return [
        torch.full((2, 1, side, side), value, requires_grad=True)
        for value, side in zip(values, sides, strict=True)
    ]


def test_the_terms_are_named_and_the_total_is_weighted():
    given = predictions(0.35, 0.28, 0.42)
    total, terms = ScaleAwareLoss()(given, torch.zeros(2, 1, 8, 8), nn.L1Loss())
    assert {name: round(value.item(), 6) for name, value in terms.items()} == {
        "loss_scale_0": 0.35,
        "weighted_loss_scale_0": 0.175,
        "loss_scale_1": 0.28,
        "weighted_loss_scale_1": 0.28,
        "loss_scale_2": 0.42,
        "weighted_loss_scale_2": 0.21,
        "total_loss": 0.665,
    }
    assert not any(value.requires_grad for value in terms.values())
    total.backward()
    # The gradient of a mean of absolute values is the weight over the number of elements.
    for one, weight in zip(given, (0.5, 1.0, 0.5), strict=True):
        torch.testing.assert_close(one.grad, torch.full_like(one, weight / one.numel()))


def test_consistency_compares_with_the_full_scale_at_its_size():
    half = torch.tensor([[[[0.0, 1.0]]]])  # bilinear to four columns: 0, 0.25, 0.75, 1
    full = torch.zeros(1, 1, 1, 4)
    assert scale_consistency([half, full], base=1).item() == pytest.approx(0.5)
    assert scale_consistency([half, full, full + 1], base=1).item() == pytest.approx(0.75)
    assert scale_consistency([full], base=0).item() == 0


def test_consistency_joins_the_total():
    loss = ScaleAwareLoss((0.5, 1.0, 0.5), consistency=0.1)
    total, terms = loss(predictions(0.4, 0.0, 0.2), torch.zeros(2, 1, 8, 8), nn.L1Loss())
    assert terms["consistency_loss"].item() == pytest.approx(0.3)
    assert total.item() == pytest.approx(0.2 + 0.1 + 0.1 * 0.3)


def test_the_full_scale_alone_keeps_its_name_and_weight():
    loss = ScaleAwareLoss((0.5, 2.0, 0.5), consistency=1.0)
    total, terms = loss(predictions(0.3, sides=[4]), torch.zeros(2, 1, 8, 8), nn.L1Loss())
    assert list(terms) == ["loss_scale_1", "weighted_loss_scale_1", "total_loss"]
    assert total.item() == pytest.approx(0.6)


def test_fractions_are_averaged_and_classes_are_not():
    target = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
    assert resize_target(target, (1, 1)).item() == 0.5
    classes = torch.tensor([[[0, 3], [7, 9]]])  # [B, H, W]
    larger = resize_target(classes, (4, 4))
    assert larger.dtype == torch.int64
    assert larger[0, :, 0].tolist() == [0, 0, 7, 7]
    assert larger[0, 0].tolist() == [0, 0, 3, 3]


def test_classes_work_with_cross_entropy():
    logits = [torch.zeros(2, 5, side, side) for side in (2, 4, 6)]
    target = torch.randint(0, 5, (2, 8, 8))
    total, _ = ScaleAwareLoss((1, 1, 1))(logits, target, nn.CrossEntropyLoss())
    assert total.item() == pytest.approx(3 * torch.log(torch.tensor(5.0)).item())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": (1, -1)}, "must be >= 0"),
        ({"weights": (1, 1), "consistency": -1.0}, "must be >= 0"),
        ({"weights": (1, 1), "base": 2}, "base 2"),
        ({"weights": ()}, "base 1"),
    ],
)
def test_wrong_weights_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ScaleAwareLoss(**settings)


def test_another_number_of_predictions_is_refused():
    with pytest.raises(ValueError, match="2 predictions for 3 weights"):
        ScaleAwareLoss()(predictions(1.0, 1.0, sides=(2, 4)), torch.zeros(2, 1, 8, 8), nn.L1Loss())
