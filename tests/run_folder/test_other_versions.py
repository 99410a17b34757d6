"""Checkpoints of later versions, of strategies from outside, and of other datasets."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import SHORT, bad

import blip_fine_tune_2
import blip_validate
import gatedcir.training.loop
from gatedcir.errors import UserError
from gatedcir.options.config import Config, DataConfig
from gatedcir.options.marks import OneOf
from gatedcir.options.model_config import GatedFusionConfig, ModelConfig
from gatedcir.pretrained import TrainedRetriever
from gatedcir.run_folder import checkpoint


@pytest.fixture
def changed(cirr_run, tmp_path):
    """Writes the run's checkpoint with other options, and what its training was not."""

    def write(change, **more):
        run = checkpoint.load(cirr_run)
        options = json.loads(json.dumps(run.config))
        change(options)
        file = tmp_path / "model.pt"
        checkpoint.save(file, replace(run, config=options, **more))
        return file

    return write


def test_options_of_training_that_are_not_known_are_left_out_and_named(
    changed, cirr_run, tmp_path, capsys
):
    file = changed(lambda o: o.update({"lookahead": 3, "cache-device": "tape"}))
    content = torch.load(file, weights_only=True)
    torch.save({**content, "moving-average": {"a": torch.ones(2)}}, file)
    expected = TrainedRetriever.from_pretrained(cirr_run)
    capsys.readouterr()
    found = TrainedRetriever.from_pretrained(file)
    assert "are left out: --cache-device, --lookahead\n" in capsys.readouterr().out
    weights = expected.model.state_dict()
    assert all(torch.equal(weights[n], w) for n, w in found.model.state_dict().items())
    assert found.config.run.cache_device == "auto"
    found.save_pretrained(tmp_path / "hub")
    hub = tmp_path / "hub" / "config.json"
    config = json.loads(hub.read_text())
    config["gatedcir"]["options"]["lookahead"] = 3
    hub.write_text(json.dumps(config))
    again = TrainedRetriever.from_pretrained(tmp_path / "hub")
    assert "are left out: --lookahead\n" in capsys.readouterr().out
    assert again.config.model == expected.config.model


def test_a_checkpoint_with_the_older_name_of_an_option_opens(home, tmp_path):
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    flags += ["--num-epochs", "1", "--model.visual-layers", "-1", "-4"]
    run = tmp_path / "run"
    blip_fine_tune_2.main([*flags, "--model.visual-fusion", "mean", "--output-dir", str(run)])
    kept = checkpoint.load(run)
    old = json.loads(json.dumps(kept.config))
    old["model"]["visual-fusion"] = old["model"].pop("layer-fusion")
    assert (old["dataset"], old["model"]["visual-fusion"]) == ("CIRR", "mean")
    checkpoint.save(tmp_path / "old.pt", replace(kept, config=old))
    found, expected = (TrainedRetriever.from_pretrained(p) for p in (tmp_path / "old.pt", run))
    assert found.config == expected.config and found.config.model.layer_fusion == "mean"
    weights = expected.model.state_dict()
    assert all(torch.equal(weights[n], w) for n, w in found.model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda o: o["model"].update({"experts": 4}), "--model.experts"),
        (lambda o: o["model"]["gated-fusion"].update({"strategy": "film"}), "cannot be film"),
        (lambda o: o.update({"transform": "letterbox"}), "--transform cannot be letterbox"),
    ],
)
@pytest.mark.parametrize(
    ("made_by", "writer"),
    [
        ({"git": "abc"}, "the revision that wrote it, abc."),
        (
            {"git": "unknown", "versions": {"gatedcir": "9.0"}},
            "the gatedcir that wrote it, version 9.0.",
        ),
        ({}, "the gatedcir that wrote it."),
    ],
)
def test_options_of_the_model_that_are_not_known_are_named(changed, change, words, made_by, writer):
    file = changed(change, provenance=made_by)
    with pytest.raises(UserError) as error:
        TrainedRetriever.from_pretrained(file)
    message = str(error.value)
    assert words in message and message.endswith(f"use {writer}")
    assert ("register that strategy again" in message) == ("film" in words)
    assert len(message.splitlines()) == 1


def test_a_strategy_that_could_not_be_opened_again_is_refused_before_training(
    home, tmp_path, monkeypatch
):
    monkeypatch.setattr(OneOf, "takes", lambda self, value: value != "film")
    config = Config(
        DataConfig("CIRR", home / "cirr_dataset"),
        model=ModelConfig(gated_fusion=GatedFusionConfig(strategy="film")),  # type: ignore
    )
    run = replace(config.run, output=tmp_path / "run")
    with pytest.raises(UserError, match=r"strategy cannot be film, so that a checkpoint .* opened"):
        gatedcir.training.loop.fit(replace(config, run=run))
    assert not (tmp_path / "run").exists()


def test_a_run_with_an_option_that_is_not_known_is_not_resumed(cirr_run, tmp_path):
    shutil.copytree(cirr_run, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    kept = checkpoint.load(last)
    checkpoint.save(last, replace(kept, config={**kept.config, "loss-margin": 0.2}))
    words = "was trained with the option loss-margin, which this version does not know; resume it"
    bad(blip_fine_tune_2, ["--resume", tmp_path / "run"], words)


def test_a_model_of_another_dataset_is_told(home, cirr_run, tmp_path, capsys):
    out = tmp_path / "out.json"
    told = {}
    for dataset, folder in (("CIRR", "cirr_dataset"), ("FashionIQ", "fashionIQ_dataset")):
        flags = ["--dataset", dataset, "--data-path", str(home / folder), "--num-workers", "0"]
        blip_validate.main([*flags, "--model-path", str(cirr_run), "--json", str(out)])
        assert json.loads(out.read_text())["trained_on"] == "synthetic data in CIRR's layout"
        told[dataset] = "was trained on synthetic data in CIRR's" in capsys.readouterr().out
    assert told == {"CIRR": False, "FashionIQ": True}
    blip_validate.main([*flags, "--model-path", "tiny", "--json", str(out)])
    assert json.loads(out.read_text())["trained_on"] is None


def test_tiny_weights_for_data_that_are_not_drawn_are_told(home, tmp_path, capsys):
    data = tmp_path / "cirr"
    data.symlink_to(home / "cirr_dataset")
    flags = ["--dataset", "CIRR", *SHORT, "--batch-size", "25", "--output", str(tmp_path / "r")]
    bad(blip_fine_tune_2, [*flags, "--data-path", data], "8 triplets")
    printed = capsys.readouterr().out
    assert "synthetic data\n" in printed and "--backbone pretrain" not in printed
    data.unlink()
    data.mkdir()
    for part in (home / "cirr_dataset").iterdir():
        if part.name != "synthetic.json":
            (data / part.name).symlink_to(part)
    bad(blip_fine_tune_2, [*flags, "--data-path", data], "8 triplets")
    printed = capsys.readouterr().out
    assert "synthetic data\n" not in printed
    assert "for trials" in printed and "--backbone pretrain" in printed
