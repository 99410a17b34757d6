"""Steps whose loss is not finite."""

import json
import math

import pandas as pd
import pytest
import torch
from conftest import SHORT, bad

import blip_fine_tune_2
from gatedcir.run_folder import checkpoint
from gatedcir.training import step


@pytest.fixture
def flags(home, tmp_path, monkeypatch):
    """Of a run of two epochs of three steps, the second of which has no finite loss."""
    calls, total_loss = [], step.total_loss

    def broken(losses, options):
        calls.append(0)
        return total_loss(losses, options) * (math.nan if len(calls) == 2 else 1)

    monkeypatch.setattr(step, "total_loss", broken)
    data = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    data += ["--limit", "6", "--batch-size", "2", "--num-epochs", "2", "--save-training"]
    return [*data, "--output", str(tmp_path / "run")]


def test_a_loss_that_is_not_finite_ends_the_run_with_its_triplets(flags, tmp_path):
    """Also before its weights would be kept."""
    file = tmp_path / "run/not_finite/epoch0-step1.json"
    words = "the loss is nan in epoch 0, step 1", str(file), "--on-nan skip"
    bad(blip_fine_tune_2, [*flags, "--save-every-steps", "2"], *words)
    found = json.loads(file.read_text())
    assert (found["epoch"], found["step"], found["loss"]) == (0, 1, "nan")
    assert len({triplet["id"] for triplet in found["triplets"]}) == 2
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_such_a_step_can_be_skipped_and_is_counted(flags, tmp_path, capsys):
    blip_fine_tune_2.main([*flags, "--on-nan", "skip"])
    run = tmp_path / "run"
    table = pd.read_csv(run / "train_metrics.csv")
    assert table.skipped_steps.tolist() == [1, 0] and table.loss.notna().all()
    assert "epoch 0: the loss of 1 of 3 steps was not finite" in capsys.readouterr().out
    steps = pd.read_csv(run / "train_steps.csv")
    assert steps.step.tolist() == [0, 2, 3, 4, 5]
    assert table.loss[0] == pytest.approx(steps.loss[:2].mean(), rel=1e-6)
    last = checkpoint.load(run / "checkpoints" / "last.pt")
    assert all(torch.isfinite(weight).all() for weight in last.weights.values())
    assert last.trainer["schedule"]["last_epoch"] == 6
