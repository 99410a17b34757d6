"""The optimiser's own numbers, and how the learning rate goes up and down."""

import torch
from torch import nn

from gatedcir.config import OptimConfig
from gatedcir.optim import make_optimizer


def test_the_optimiser_and_its_schedule():
    model = nn.Linear(2, 2)
    options = OptimConfig(num_epochs=2, warmup=0.25, learning_rate=1.0)
    optimizer, schedule = make_optimizer(model, options, steps_per_epoch=4)
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"]) == ((0.9, 0.98), 1e-7)
    rates = []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    # Two of eight steps rise, the cosine falls to zero over the other six.
    angles = torch.arange(7) / 6 * torch.pi
    expected = torch.cat([torch.tensor([0.0, 0.5]), (1 + angles.cos()) / 2])
    torch.testing.assert_close(torch.tensor(rates), expected.float())
