"""Eight steps of the published trainer, from the published weights to the published weights."""

import json
from pathlib import Path

import pytest
import torch
from conftest import encode_triplets
from safetensors.torch import load_file

from gatedcir.models.weights.names import from_sprc
from gatedcir.options.config import LossConfig
from gatedcir.training.losses import losses_of, total_loss

FIXTURES = Path(__file__).parents[1] / "fixtures"
IDS = torch.arange(4)


@pytest.fixture
def trained(published):
    """The losses, rates and temperatures of every step, and the model after them."""
    facts = json.loads((FIXTURES / "sprc_tiny_train.json").read_text())
    model, images, targets, text = published  # dropout stays off, as when the numbers were made
    parameters = [p for p in model.parameters() if p.requires_grad]
    # The published trainer decays everything and spans its schedule over 80 epochs.
    optimizer = torch.optim.AdamW(
        parameters,
        lr=facts["max_lr"],
        betas=(0.9, 0.98),
        eps=facts["eps"],
        weight_decay=facts["weight_decay"],
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=facts["max_lr"],
        pct_start=facts["pct_start"],
        steps_per_epoch=facts["steps_per_epoch"],
        epochs=facts["epochs"],
    )
    rows = []
    for _ in facts["rows"]:
        group = optimizer.param_groups[0]
        rates = {"lr": group["lr"], "betas": group["betas"], "temp": model.temp.item()}
        losses = losses_of(encode_triplets(model, images, targets, text), IDS, model.temp)
        total = total_loss(losses, LossConfig(loss_rtc=0.4, loss_align=0.4))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        rows.append({**rates, "total": total.item(), **{n: v.item() for n, v in losses.items()}})
    return facts["rows"], rows, model


def test_eight_steps_give_the_published_losses_and_weights(trained):
    expected_rows, rows, model = trained
    assert len(rows) == 8
    for expected, found in zip(expected_rows, rows, strict=True):
        assert found["lr"] == pytest.approx(expected["lr"], rel=1e-6)
        assert found["betas"] == pytest.approx(tuple(expected["betas"]), rel=1e-6)
        for name in ("total", "loss_itc", "loss_rtc", "loss_align", "temp"):
            assert found[name] == pytest.approx(expected[name], abs=1e-5), (expected["step"], name)
    start = from_sprc(load_file(FIXTURES / "sprc_tiny.safetensors"))
    found = model.state_dict()
    for name, expected in from_sprc(load_file(FIXTURES / "sprc_tiny_after8.safetensors")).items():
        moved = (expected - start[name]).norm().item()
        # Adam turns the rounding in a gradient that is zero, a key bias', into steps of full size.
        if not name.endswith(".key.bias"):
            wrong = (found[name] - expected).norm().item()
            assert wrong <= 1e-3 * moved, (name, wrong, moved)
