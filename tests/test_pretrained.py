"""A trained model for other programs: out, in, and up to the hub."""

import json
from pathlib import Path

import pytest
import torch
from conftest import SHORT, whole_checkpoint
from published_model import golden_weights

import blip_fine_tune_2
import blip_validate
from gatedcir.errors import UserError
from gatedcir.models.weights import hub_folder
from gatedcir.models.weights.names import from_sprc
from gatedcir.pretrained import TrainedRetriever


@pytest.fixture
def retriever(cirr_run):
    return TrainedRetriever.from_pretrained(cirr_run)


def same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def features(retriever):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    text = retriever.tokenizer(["make it red", "two circles, zyzzyva"])
    with torch.no_grad():
        return retriever.model.encode_query(pixels, text)[0], retriever.model.encode_target(pixels)


def test_a_saved_folder_gives_the_same_model(cirr_run, retriever, tmp_path):
    retriever.save_pretrained(tmp_path / "hub")
    found = TrainedRetriever.from_pretrained(str(tmp_path / "hub"))
    same(found.model.state_dict(), whole_checkpoint(cirr_run).weights)
    assert not found.model.training
    assert all(map(torch.equal, features(found), features(retriever)))
    assert (found.epoch, found.metrics) == (retriever.epoch, retriever.metrics)
    assert found.config.model == retriever.config.model
    assert found.provenance["data"] == retriever.provenance["data"]


def test_weights_as_they_are_now_go_out(retriever, tmp_path):
    with torch.no_grad():
        retriever.model.temp.fill_(0.125)
    retriever.save_pretrained(tmp_path / "hub")
    found = TrainedRetriever.from_pretrained(tmp_path / "hub")
    assert found.model.temp.item() == 0.125


def test_published_weights_have_no_run(sprc_file, tmp_path):
    found = TrainedRetriever.from_pretrained(sprc_file)
    assert (found.epoch, found.metrics) == (0, {})
    found.save_pretrained(tmp_path / "hub")
    again = TrainedRetriever.from_pretrained(tmp_path / "hub")
    same(again.model.state_dict(), from_sprc(golden_weights()))
    assert again.config.model.gated_fusion.strategy == "none"


def test_validation_gives_the_same_metrics_from_a_run_and_its_folder(
    home, cirr_run, retriever, tmp_path
):
    retriever.save_pretrained(tmp_path / "hub")
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), "--num-workers", "0"]
    found = []
    for model in (cirr_run, tmp_path / "hub", tmp_path / "hub" / "model.safetensors"):
        blip_validate.main([*flags, "--model-path", str(model), "--json", str(tmp_path / "json")])
        found.append(json.loads((tmp_path / "json").read_text())["metrics"])
    assert found[0] == found[1] == found[2] and found[0]["recall_at50"] > 0


def test_training_goes_on_from_a_saved_folder(home, cirr_run, retriever, tmp_path, capsys):
    retriever.save_pretrained(tmp_path / "hub")
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    flags += ["--backbone", str(tmp_path / "hub"), "--num-epochs", "1", "--learning-rate", "0"]
    blip_fine_tune_2.main([*flags, "--save-training", "--output", str(tmp_path / "run")])
    printed = capsys.readouterr().out
    assert retriever.epoch == 1 and f"weights: {tmp_path / 'hub'} after 1 epoch\n" in printed
    assert "prompts, temperature and fusion are taken along\n" in printed
    same(whole_checkpoint(tmp_path / "run").weights, whole_checkpoint(cirr_run).weights)


class FakeApi:
    """The hub, as far as an upload needs it: keeps the files' content."""

    endpoint = "https://hub"

    def __init__(self):
        self.made, self.files = [], {}

    def create_repo(self, repository, *, private, exist_ok):
        self.made.append((repository, private, exist_ok))

    def upload_folder(self, *, repo_id, folder_path):
        files = Path(folder_path).iterdir()
        self.files[repo_id] = {path.name: path.read_bytes() for path in files}


def test_what_is_pushed_is_the_folder(retriever, tmp_path, monkeypatch):
    api = FakeApi()
    monkeypatch.setattr(hub_folder, "HfApi", lambda: api)
    address = retriever.push_to_hub("someone/my-model", private=True)
    assert address == "https://hub/someone/my-model"
    assert api.made == [("someone/my-model", True, True)]
    retriever.save_pretrained(tmp_path / "my-model")
    saved = {path.name: path.read_bytes() for path in (tmp_path / "my-model").iterdir()}
    assert api.files == {"someone/my-model": saved}
    assert b"# my-model\n" in saved["README.md"]


def test_an_upload_that_fails_says_what_to_do(retriever, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("401 Client Error.\nlong text")

    monkeypatch.setattr(FakeApi, "create_repo", refuse)
    monkeypatch.setattr(hub_folder, "HfApi", FakeApi)
    with pytest.raises(UserError) as error:
        retriever.push_to_hub("someone/my-model")
    message = str(error.value)
    assert "(401 Client Error)" in message and "hf auth login" in message
    assert len(message.splitlines()) == 1
    with pytest.raises(UserError, match="'a b' is no hub name"):
        retriever.push_to_hub("a b")
