"""The commands on published weights, which are no run of this project."""

import json

import pytest
import torch
import visualize_gates
from conftest import SHORT

import blip_fine_tune_2
import blip_validate
import cirr_test_submission
from gatedcir.assemble.data import make_transform
from gatedcir.assemble.evaluator import open_checkpoint
from gatedcir.errors import UserError
from gatedcir.run_folder import checkpoint


@pytest.fixture
def data(home):
    return ["--data-path", str(home / "cirr_dataset"), "--num-workers", "0"]


def test_a_published_file_is_evaluated_and_submitted(data, sprc_file, tmp_path, capsys):
    metrics, answers = tmp_path / "metrics.json", tmp_path / "answers"
    model = ["--model-path", str(sprc_file)]
    blip_validate.main(["--dataset", "CIRR", *data, *model, "--json", str(metrics)])
    assert str(sprc_file) in capsys.readouterr().out
    assert json.loads(metrics.read_text())["metrics"]["recall_at50"] > 0
    cirr_test_submission.main([*data, *model, "--output", str(answers)])
    assert len(list(answers.iterdir())) == 2


def test_a_published_file_has_no_gate_to_draw(data, sprc_file, tmp_path):
    flags = ["--model-path", str(sprc_file), "--dataset", "CIRR", *data[:2]]
    with pytest.raises(UserError, match="gated-fusion"):
        visualize_gates.main([*flags, "--output", str(tmp_path / "maps")])


def test_embedded_weights_are_evaluated_untrained(data, capsys):
    blip_validate.main(["--dataset", "CIRR", *data, "--model-path", "tiny"])
    assert "recall_at50" in capsys.readouterr().out


def test_training_goes_on_from_a_published_file_at_another_size(data, sprc_file, tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--dataset", "CIRR", *data, *SHORT, "--num-epochs", "1", "--save-training"]
    flags += ["--backbone", str(sprc_file), "--image-size", "48", "--output", str(run)]
    blip_fine_tune_2.main(flags)
    printed = capsys.readouterr().out
    assert "SPRC's model" in printed and "32 px to 48 px" in printed
    saved = checkpoint.load(run)
    assert saved.weights["temp"].item() == pytest.approx(0.05, abs=1e-3)  # it began at 0.05
    model, _, config = open_checkpoint(run)
    assert model.backbone.image_size == 48
    assert make_transform(config, model).size == 48
    assert {w.dtype for w in model.state_dict().values()} == {torch.float32}
