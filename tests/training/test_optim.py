"""The optimiser's own numbers, and how the learning rate goes up and down."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from gatedcir.errors import UserError
from gatedcir.options.config import OptimConfig
from gatedcir.training.optim import check_state, make_optimizer
from gatedcir.training.resume import told_of


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["state"][0].update(exp_avg=torch.ones(2)), "weight 0 does not fit"),
        (lambda s: s["state"][0].update(step=None), "weight 0 does not fit"),
        (lambda s: s["state"][0].pop("exp_avg_sq"), "weight 0 does not fit"),
        (lambda s: s["state"].update({9: {}}), "index"),
        (lambda s: s["state"].update({0: []}), "items"),
        (lambda s: s["param_groups"][0].update(lr="fast"), "lr of a group of weights is 'fast'"),
        (lambda s: s["param_groups"][0].update(maximize=2**70), "maximize of a group"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change, words):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    check_state(state, optimizer)
    change(state)
    with pytest.raises(UserError, match=words) as error, told_of(Path("run")):
        check_state(state, optimizer)
    assert "last.pt holds a state that no training can go on from" in str(error.value)
