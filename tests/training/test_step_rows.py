"""Rows of single steps: which steps have one, and whether they hold what the step computed."""

import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from conftest import SHORT, bad

import blip_fine_tune_2
from gatedcir.training.step_rows import StepRows, fusion_figures


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def test_every_third_step_has_a_row_of_its_own_figures(accelerator):
    rows, weight = StepRows(first=100, every=3), torch.tensor(0.0)
    for step in range(7):
        weight.fill_(step / 4)  # in place, as an optimiser changes a weight
        rows.add(step, {"loss": torch.tensor(2.0**step), "temp": weight}, {"rate": step / 8})
    assert rows.read(accelerator) == [
        {"step": 100, "loss": 1.0, "temp": 0.0, "rate": 0.0},
        {"step": 103, "loss": 8.0, "temp": 0.75, "rate": 0.375},
        {"step": 106, "loss": 64.0, "temp": 1.5, "rate": 0.75},
    ]


def test_a_fusion_reports_only_the_figures_that_it_has():
    gate = torch.tensor([[[0.0], [0.5], [1.0]]])
    found = fusion_figures({"gate": gate, "change": torch.tensor(0.25)})
    assert {name: value.item() for name, value in found.items()} == {
        "gate_mean": 0.5,
        "gate_std": 0.5,
        "fusion_change": 0.25,
    }
    assert fusion_figures({}) == {}


def test_a_lesson_reports_where_it_is_full():
    found = fusion_figures({"gate_target": torch.tensor([[1.0, 0.5], [1.0, 0.0]])})
    assert {name: value.item() for name, value in found.items()} == {
        "lesson_mean": 0.625,
        "lesson_full": 0.5,
    }


def test_a_run_writes_its_steps(home, tmp_path):
    run = tmp_path / "run"
    flags = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset", *SHORT, "--no-save"]
    flags += ["--num-epochs", 2, "--log-every", 1, "--fusion-rate", 10, "--output", run]
    blip_fine_tune_2.main(list(map(str, flags)))
    steps, epochs = (pd.read_csv(run / f"train_{name}.csv") for name in ("steps", "metrics"))
    each = len(steps) // 2
    assert steps["step"].tolist() == list(range(2 * each)) and each > 1
    assert steps["epoch"].tolist() == [0] * each + [1] * each
    for name in ("loss", "loss_itc", "loss_rtc", "gate_mean", "gate_std", "alpha", "fusion_change"):
        means = steps.groupby("epoch")[name].mean().tolist()
        assert means == pytest.approx(epochs[name].tolist(), rel=1e-5), name
    ratio = steps["fusion_learning_rate"] / steps["learning_rate"]
    assert ratio.dropna().tolist() == pytest.approx([10] * ratio.count())
    assert steps["temp"].tolist()[each - 1 :: each] == pytest.approx(epochs["temp"].tolist())


def test_fewer_than_no_steps_are_refused(home, tmp_path):
    flags = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset", "--log-every", -1]
    bad(blip_fine_tune_2, flags, "--log-every -1", "0 or more")
