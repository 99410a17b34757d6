"""Losses of predictions at several input scales.

Shapes: B batch, K channels of a prediction, H and W of the target, h and w of one prediction.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedcir.multiscale.maps import resize

Criterion = Callable[[Tensor, Tensor], Tensor]


def resize_target(target: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, K, H, W] or [B, H, W] -> the same at (h, w).

    Floats are interpolated. Integers are classes, and each position takes the class of the nearest
    one.
    """
    maps = target if target.ndim == 4 else target[:, None]
    if target.is_floating_point():
        resized = resize(maps, size)
    else:
        resized = resize(maps.double(), size, mode="nearest").to(target.dtype)
    return resized if target.ndim == 4 else resized[:, 0]


def scale_consistency(predictions: Sequence[Tensor], base: int) -> Tensor:
    """Mean absolute difference to the prediction of scale `base`, at its size: a scalar.

    The result is the mean over the other scales, or zero where there are none.

    >>> half, full = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 4, 4), 0.25)
    >>> scale_consistency([half, full, full], base=1)
    tensor(0.1250)
    """
    reference = predictions[base]
    height, width = reference.shape[-2:]
    others = [one for i, one in enumerate(predictions) if i != base]
    if not others:
        return reference.new_zeros(())
    gaps = [F.l1_loss(resize(one, (height, width)), reference) for one in others]
    return torch.stack(gaps).mean()


class ScaleAwareLoss(nn.Module):
    """The sum of each scale's loss times its weight, and of the consistency times its own.

    Args:
        weights: one a scale, coarse to fine.
        consistency: the weight of `scale_consistency`; zero leaves it out.
        base: the index of the 1.0x scale, with which the others should be consistent.

    >>> loss = ScaleAwareLoss((0.5, 1.0, 0.5))
    >>> predictions = [torch.full((1, 1, 2, 2), value) for value in (0.35, 0.28, 0.42)]
    >>> total, terms = loss(predictions, torch.zeros(1, 1, 8, 8), torch.nn.L1Loss())
    >>> [f"{terms[f'weighted_loss_scale_{i}']:.3f}" for i in range(3)], f"{total:.3f}"
    (['0.175', '0.280', '0.210'], '0.665')

    Raises:
        ValueError: a negative weight, or no scale `base`.
    """

    def __init__(
        self,
        weights: Sequence[float] = (0.5, 1.0, 0.5),
        *,
        consistency: float = 0.0,
        base: int = 1,
    ) -> None:
        super().__init__()
        if min(*weights, consistency, 0.0) < 0:
            raise ValueError(f"weights {tuple(weights)} and consistency {consistency} must be >= 0")
        if not 0 <= base < len(weights):
            raise ValueError(f"base {base} is not the index of one of the {len(weights)} weights")
        self.weights = tuple(weights)
        self.consistency = consistency
        self.base = base

    def forward(
        self, predictions: Sequence[Tensor], target: Tensor, criterion: Criterion
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare every prediction with the target at the prediction's size.

        Args:
            predictions: one [B, K, h, w] a scale, or that of the 1.0x scale alone.
            target: [B, K, H, W] or [B, H, W], as `resize_target` takes it.
            criterion: a prediction and its target -> a scalar.

        Returns:
            The total to train on, and detached terms for the log: `loss_scale_0` and so on,
            `weighted_loss_scale_0` and so on, `total_loss`, and `consistency_loss` if it counts.

        Raises:
            ValueError: another number of predictions.
        """
        if len(predictions) not in (1, len(self.weights)):
            raise ValueError(f"{len(predictions)} predictions for {len(self.weights)} weights")
        indices = [self.base] if len(predictions) == 1 else range(len(self.weights))
        total = predictions[0].new_zeros(())
        terms = {}
        for i, prediction in zip(indices, predictions, strict=True):
            height, width = prediction.shape[-2:]
            loss = criterion(prediction, resize_target(target, (height, width)))
            terms[f"loss_scale_{i}"] = loss.detach()
            terms[f"weighted_loss_scale_{i}"] = (self.weights[i] * loss).detach()
            total = total + self.weights[i] * loss
        if self.consistency and len(predictions) > 1:
            gap = scale_consistency(predictions, self.base)
            terms["consistency_loss"] = gap.detach()
            total = total + self.consistency * gap
        return total, {**terms, "total_loss": total.detach()}
