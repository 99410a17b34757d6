"""Averaged weights, over the steps of a run and over runs."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import SHORT, bad, whole_checkpoint
from cut_runs import assert_goes_on, interrupted
from torch import nn

import blip_fine_tune_2
from gatedcir.commands import average
from gatedcir.errors import UserError
from gatedcir.run_folder import checkpoint, mixture
from gatedcir.training.averaging import AveragedWeights, better_weights


def test_averages_equal_the_written_out_sum():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(7.0)
    averaged = AveragedWeights(model, 0.6)
    seen = []
    for value in (1.0, 2.0, 6.0, 11.0):
        model.weight.data.fill_(value)
        averaged.update()
        seen.append(averaged.weights["weight"].item())
    # 1, the mean of 1 and 2, then 0.6 of the old: 0.9 + 2.4, and 1.98 + 4.4.
    assert seen == pytest.approx([1.0, 1.5, 3.3, 6.38])
    with averaged.in_use():
        assert model.weight.item() == pytest.approx(6.38)
    assert model.weight.item() == 11.0
    again = AveragedWeights(model, 0.6)
    again.load_state(averaged.state())
    assert again.weights["weight"].item() == seen[-1] and again.steps == 4


@pytest.mark.parametrize(("scores", "kept", "figure"), [((3, 5), 1.0, 1), ((5, 5), 2.0, 0)])
def test_averages_are_kept_only_where_they_are_better(scores, kept, figure):
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    averaged = AveragedWeights(model, 0.5)
    model.weight.data.fill_(2.0)
    given = iter(scores)
    with better_weights(averaged, lambda: ({"r": next(given)}, {}), headline="r") as found:
        assert model.weight.item() == kept
    assert found == ({"r": max(scores)}, {"averaged": figure}) and model.weight.item() == 2.0


def test_a_run_with_averages_resumes_and_keeps_the_better_weights(home, tmp_path, monkeypatch):
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    flags += ["--num-epochs", "1", "--learning-rate", "1e-3", "--ema", "0.5", "--save-training"]
    flags += ["--accumulate", "2", "--noise", "0.3", "--loss", "rcl", "--batch-size", "2"]
    blip_fine_tune_2.main([*flags, "--output", str(tmp_path / "run")])
    last, best = (checkpoint.load(tmp_path / "run/checkpoints" / n) for n in ("last.pt", "best.pt"))
    [row] = pd.read_csv(tmp_path / "run/validation_metrics.csv").to_dict("records")
    averages = last.trainer["averaged"]
    name = "backbone.text_projection.weight"
    assert averages["steps"] == 4 and not torch.equal(averages[name], last.weights[name])
    expected = averages if row["averaged"] else last.weights
    assert torch.equal(best.weights[name], expected[name])
    assert best.metrics.items() <= row.items()
    flags += ["--save-every-steps", "1", "--output", str(tmp_path / "cut")]
    interrupted(monkeypatch, flags, step=2)
    assert_goes_on(tmp_path / "cut", epoch=0, steps=1, whole=tmp_path / "run")


def test_the_mean_of_runs_is_that_of_their_weights(cirr_run, tmp_path, capsys):
    first = checkpoint.load(cirr_run / "checkpoints" / "best.pt")
    other = tmp_path / "other.pt"
    doubled = {n: 3 * w if w.is_floating_point() else w for n, w in first.weights.items()}
    said = {**first.provenance, "recipes": ["--loss rcl"]}
    elsewhere = {**first.config, "dataset": "FashionIQ"}
    checkpoint.save(other, replace(first, weights=doubled, provenance=said, config=elsewhere))
    average.main([str(cirr_run), str(other), "--output", str(tmp_path / "mean")])
    printed = capsys.readouterr().out
    assert f"run: {tmp_path / 'mean'}" in printed
    assert "trained on CIRR and FashionIQ; the mean counts as of CIRR" in printed
    found = checkpoint.load(tmp_path / "mean")
    for name, weight in first.weights.items():
        expected = 2 * weight if weight.is_floating_point() else weight
        torch.testing.assert_close(found.weights[name], expected)
    assert found.provenance["recipes"] == [
        f"the mean of {cirr_run}, {other}",
        f"of {other}: --loss rcl",
    ]


def test_the_mean_holds_a_tower_that_not_all_runs_name(cirr_run, tmp_path):
    whole = tmp_path / "whole.pt"
    checkpoint.save(whole, whole_checkpoint(cirr_run))
    average.main([str(cirr_run), str(whole), "--output", str(tmp_path / "mean")])
    found = checkpoint.load(tmp_path / "mean")
    assert found.towers is None and found.weights.keys() == checkpoint.load(whole).weights.keys()


def test_a_mean_that_does_not_help_is_not_written(cirr_run, home, tmp_path):
    data = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset", "--num-workers", "0"]
    to = ["--output", tmp_path / "mean"]
    same = shutil.copy(cirr_run / "checkpoints" / "best.pt", tmp_path / "same.pt")
    bad(average, [cirr_run, same, *data, *to], "does not help", "leave --dataset out")
    bad(average, [cirr_run, *to], "name two runs or more")
    assert not (tmp_path / "mean").exists()


def test_a_run_counts_once(cirr_run, tmp_path):
    words = ["--runs", cirr_run, cirr_run.parent / "." / cirr_run.name, "--output", tmp_path / "m"]
    bad(average, words, f"{cirr_run} is named 2 times; name each run once.")


def test_runs_of_different_models_have_no_mean(cirr_run):
    first = checkpoint.load(cirr_run / "checkpoints" / "best.pt")
    name = "backbone.text_projection.weight"
    wider = {**first.weights, name: first.weights[name].repeat(2, 1)}
    names = ["one", "two"]
    model = {n: value for n, value in first.config["model"].items() if n != "query-branch"}
    older = replace(first, config={**first.config, "model": model})  # before there was this option
    mixture.mean_of([first, older], names, changed=average.changed)
    branch = {**first.config, "model": {**model, "query-branch": "second"}}
    for other, words in (
        (replace(first, weights=wider), "weights of other sizes"),
        (replace(first, config=branch), "another model.query-branch"),
        (replace(first, config={**first.config, "target-ratio": 9.0}), "another target-ratio"),
    ):
        with pytest.raises(UserError, match=f"two has {words} than one"):
            mixture.mean_of([first, other], names, changed=average.changed)
