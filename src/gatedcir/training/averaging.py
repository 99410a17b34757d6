"""Weights averaged over the steps of a run, which are kept where they validate better."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

Measured = tuple[dict[str, float], dict[str, float]]
"""Metrics in percent, and figures between 0 and 1."""


class AveragedWeights:
    """The exponential moving average of a model's trainable weights.

    It starts as their mean over the first steps, so that it soon forgets the start.

    Args:
        model: whose weights are averaged.
        decay: share of the old average that a step keeps, in the long run.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._own = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.weights = {name: weight.detach().clone() for name, weight in self._own.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (self.steps - 1) / self.steps)
        now = [weight.detach() for weight in self._own.values()]
        get_ema_multi_avg_fn(decay)(list(self.weights.values()), now, self.steps)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A context in which the model has the averages as its weights."""
        before = {name: weight.detach().clone() for name, weight in self._own.items()}
        self._put(self.weights)
        try:
            yield
        finally:
            self._put(before)

    def state(self) -> dict[str, Tensor | int]:
        """What a resumed run needs."""
        return {**self.weights, "steps": self.steps}

    def load_state(self, state: dict) -> None:
        """Load the result of `state`."""
        self.steps = state["steps"]
        for name, average in self.weights.items():
            average.copy_(state[name])

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, own in self._own.items():
            own.copy_(weights[name])


@contextmanager
def better_weights(
    averaged: AveragedWeights | None, validate: Callable[[], Measured], *, headline: str
) -> Iterator[Measured]:
    """A context in which the model has the weights that validate better, and their metrics.

    The weights of the last step win if both are equal. Without averages there are no others. The
    figure `averaged` tells which of the two it is.
    """
    metrics, figures = validate()
    if averaged is None:
        yield metrics, figures
        return
    with averaged.in_use():
        tqdm.write("averaged weights (--ema):")
        found, more = validate()
        helps = found[headline] > metrics[headline]
        if helps:
            yield found, {**more, "averaged": 1.0}
    if not helps:
        yield metrics, {**figures, "averaged": 0.0}
