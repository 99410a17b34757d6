"""Runs and exported folders of earlier releases open in this one, and give the same features."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import blip_fine_tune_2
import blip_validate
from gatedcir.pretrained import TrainedRetriever
from gatedcir.synthetic.layouts import write_cirr

FIXTURES = Path(__file__).parents[1] / "fixtures"
TEXTS = ["make it red", "two dogs on grass"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The suite's small scenes of that time."""
    folder = tmp_path_factory.mktemp("scenes")
    list(write_cirr(folder, {"train": 24, "val": 6, "test": 20}, seed=0))
    return folder


@pytest.fixture
def release(tmp_path, monkeypatch):
    """A run that was stopped after one of two epochs, and what it started from, as they were left.

    It was trained by release 0.1 on the suite's own small scenes, with two layers and gated fusion.
    """
    folder = Path(shutil.copytree(FIXTURES / "release_0_1", tmp_path / "release"))
    monkeypatch.chdir(folder)  # its options name the weights and the data from here
    return folder


@pytest.mark.parametrize("name", ["run", "exported"])
def test_features_are_those_of_release_0_1(release, name):
    expected = load_file(release / "expected.safetensors")
    found = TrainedRetriever.from_pretrained(release / name)
    with torch.inference_mode():
        query, aux = found.model.encode_query(expected["images"], found.tokenizer(TEXTS))
        targets = found.model.encode_target(expected["images"])
    for value, before in ((query, "query"), (targets, "targets"), (aux["gate"], "gate")):
        torch.testing.assert_close(value, expected[before], rtol=1e-5, atol=1e-6)
    assert found.epoch == 1 and found.config.model.gated_fusion.strategy == "gated"


def test_metrics_are_those_of_release_0_1(release, scenes):
    data = ["--dataset", "CIRR", "--data-path", str(scenes), "--num-workers", "0"]
    blip_validate.main([*data, "--model-path", "run", "--json", "now.json"])
    metrics = (json.loads(Path(name).read_text())["metrics"] for name in ("now.json", "val.json"))
    assert next(metrics) == pytest.approx(next(metrics))


def test_a_run_of_release_0_1_goes_on(release, scenes):
    before = pd.read_csv("run/train_metrics.csv")
    blip_fine_tune_2.main(["--resume", "run", "--data-path", str(scenes)])
    pd.testing.assert_frame_equal(pd.read_csv("run/train_metrics.csv")[:1][before.columns], before)
    after = pd.read_csv("run/validation_metrics.csv")
    expected = pd.read_csv("after_resume.csv")
    pd.testing.assert_frame_equal(after[expected.columns], expected)
