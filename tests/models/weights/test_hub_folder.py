"""A trained model as a folder of the hub: bit for bit there and back, whole or not at all."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from conftest import whole_checkpoint
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoTokenizer

from gatedcir.assemble.model import open_trained
from gatedcir.commands import describe
from gatedcir.errors import UserError
from gatedcir.models.backbone import Backbone
from gatedcir.models.weights import hub_folder
from gatedcir.models.weights.sources import load


@pytest.fixture(scope="session")
def hub(cirr_run, tmp_path_factory):
    """The folder of a gated run."""
    folder = tmp_path_factory.mktemp("out") / "my-model"
    hub_folder.write(whole_checkpoint(cirr_run), folder)
    return folder


@pytest.fixture
def spoiled(hub, tmp_path):
    return shutil.copytree(hub, tmp_path / "copy")


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def sizes(run):
    """The backbone's config, in which JSON's text keys are numbers again."""
    return Backbone.without_weights(run.backbone).config.to_dict()


def test_what_is_written_is_read_bit_for_bit(cirr_run, hub):
    run, found = whole_checkpoint(cirr_run), hub_folder.read(hub)
    assert found.weights.keys() == run.weights.keys()
    assert "fusion.alpha" in found.weights and "prompt_tokens" in found.weights
    for name, weight in run.weights.items():
        assert torch.equal(found.weights[name], weight), name
        assert found.weights[name].dtype == weight.dtype, name
    assert sizes(found) == sizes(run)
    assert found.tokenizer == run.tokenizer
    assert (found.epoch, found.metrics) == (run.epoch, run.metrics)
    assert found.trainer is None


def test_a_visual_fusion_is_read_back(cirr_run, tmp_path):
    run = whole_checkpoint(cirr_run)
    more = {"visual_fusion.fuse.gain": torch.randn(128)}
    hub_folder.write(replace(run, weights=run.weights | more), tmp_path / "fused")
    found = hub_folder.read(tmp_path / "fused").weights
    assert found.keys() == run.weights.keys() | more.keys()
    assert torch.equal(found["visual_fusion.fuse.gain"], more["visual_fusion.fuse.gain"])


def test_places_of_the_machine_stay_there(cirr_run, hub):
    run, found = whole_checkpoint(cirr_run), hub_folder.read(hub)
    changed = {name for name, value in run.config.items() if found.config[name] != value}
    assert changed == {"data-path", "output"}
    assert run.provenance.keys() - found.provenance.keys() == {"command"}
    places = {"backbone": "/home/someone/blip2.pth", "cache-features": "/home/someone/features"}
    moved = replace(run, config={**run.config, **places})
    hub_folder.write(moved, other := hub.parent / "moved")
    assert hub_folder.read(other).config["backbone"] == "blip2.pth"
    assert hub_folder.read(other).config["cache-features"] == "auto"
    texts = [file.read_text() for file in (*hub.glob("*.json"), *hub.glob("*.md"))]
    assert len(texts) == 4 and not any(str(cirr_run.parent) in text for text in texts)


def test_the_layout_is_the_hubs(hub):
    names = "README.md config.json model.safetensors tokenizer.json tokenizer_config.json"
    assert sorted(path.name for path in hub.iterdir()) == names.split()
    config = config_of(hub)
    assert config["model_type"] == "blip-2"
    options = config["gatedcir"]["options"]
    assert options["model"]["gated-fusion"]["strategy"] == "gated"
    assert (options["transform"], options["target-ratio"]) == ("targetpad", 1.25)
    text = "make it red"
    assert AutoTokenizer.from_pretrained(hub)(text)["input_ids"][0] == 2  # [CLS]
    # The backbone goes by transformers' own names.
    del config["gatedcir"]
    expected = Backbone.without_weights(config).state_dict().keys()
    own = {name for name in load_file(hub / "model.safetensors") if name not in expected}
    assert own == {n for n in own if n.startswith(("fusion.", "prompt_tokens", "temp"))}
    assert expected < load_file(hub / "model.safetensors").keys()


def test_the_card_tells_metrics_protocol_dataset_and_options(cirr_run, hub):
    run = whole_checkpoint(cirr_run)
    card = ModelCard.load(hub / "README.md")
    card_results = {result.metric_type: result for result in card.data.eval_results}
    assert {name: r.metric_value for name, r in card_results.items()} == run.metrics
    result = card_results["recall_at50"]
    assert result.dataset_split == "val"
    protocol = run.provenance["data"]["CIRR val"]
    assert result.dataset_args["protocol"]["CIRR val"] == protocol
    assert f"- CIRR val: {protocol}" in card.text
    assert f"| recall_at50 | {run.metrics['recall_at50']:.2f} |" in card.text
    assert "gated text-image fusion" in card.text and "`tiny` on synthetic data" in card.text
    assert result.dataset_type == "synthetic-cirr"
    assert result.dataset_name == "synthetic data in CIRR's layout"
    options = card.text.split("## Options")[1].split("```")[1].removeprefix("yaml\n")
    assert yaml.safe_load(options) == config_of(hub)["gatedcir"]["options"]


def test_a_card_without_metrics_says_so(cirr_run, tmp_path):
    run = whole_checkpoint(cirr_run)
    bare = replace(run, metrics={}, epoch=0, config={**run.config, "backbone": "pretrain"})
    hub_folder.write(bare, tmp_path / "bare")
    card = ModelCard.load(tmp_path / "bare" / "README.md")
    assert card.data.eval_results is None
    assert card.data.base_model == "Salesforce/blip2-itm-vit-g"
    assert "Not validated" in card.text and "not trained here" in card.text
    hub_folder.write(replace(run, provenance={}), tmp_path / "old")
    assert "protocol was not recorded" in (tmp_path / "old" / "README.md").read_text()


def test_an_existing_folder_is_left_alone(cirr_run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    for place in (tmp_path / "out", tmp_path / "out" / "notes.txt"):
        with pytest.raises(UserError, match=r"an empty folder; name a new one|is a file"):
            hub_folder.write(whole_checkpoint(cirr_run), place)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "notes.txt"]


def test_nothing_is_left_half_written(cirr_run, tmp_path):
    run = whole_checkpoint(cirr_run)
    with pytest.raises(KeyError):  # of the options, after the weights were written
        hub_folder.write(replace(run, config={"backbone": "tiny"}), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_blip2_is_none_of_ours(spoiled):
    config = config_of(spoiled)
    del config["gatedcir"]
    (spoiled / "config.json").write_text(json.dumps(config))
    assert hub_folder.find(spoiled) is None
    with pytest.raises(UserError, match="unexpected"):
        load(str(spoiled))
    (spoiled / "config.json").write_text("{")
    assert hub_folder.find(spoiled) is None


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder(spoiled, name):
    content = (spoiled / name).read_bytes()
    for change in (lambda p: p.write_bytes(content[: len(content) // 2]), lambda p: p.unlink()):
        change(spoiled / name)
        with pytest.raises(UserError, match=r"incomplete copy of a trained model \(.+\); copy"):
            load(str(spoiled))


def test_a_changed_bit_is_told_and_a_folder_of_an_earlier_version_is_read(spoiled):
    for name in ("model.safetensors", "tokenizer.json"):
        good = (spoiled / name).read_bytes()
        for at in (len(good) // 2, len(good) - 9):
            (spoiled / name).write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(UserError, match=f"{name} has another checksum.*; copy or download"):
                hub_folder.read(spoiled)
        (spoiled / name).write_bytes(good)
    config = json.loads((spoiled / "config.json").read_text())
    del config["gatedcir"]["crc32"]
    (spoiled / "config.json").write_text(json.dumps(config))
    assert hub_folder.read(spoiled).weights


def test_weights_that_do_not_fit_the_options(cirr_run, tmp_path):
    run = whole_checkpoint(cirr_run)
    weights = {name: w for name, w in run.weights.items() if name != "prompt_tokens"}
    hub_folder.write(replace(run, weights=weights), tmp_path / "out")
    with pytest.raises(UserError, match=r"1 missing \(prompt_tokens\)"):
        open_trained(str(tmp_path / "out"))


def test_a_hub_name_is_downloaded_once_it_is_known_as_ours(hub, monkeypatch):
    asked = []

    def config_file(repository, name):
        asked.append((repository, name))
        return str(hub / name)

    monkeypatch.setattr(hub_folder, "hf_hub_download", config_file)
    monkeypatch.setattr(hub_folder, "snapshot_download", lambda repository: str(hub))
    assert hub_folder.find("someone/model") == hub
    assert asked == [("someone/model", "config.json")]

    def broken(repository):
        raise ConnectionError("the line went dead.")

    monkeypatch.setattr(hub_folder, "snapshot_download", broken)
    with pytest.raises(UserError, match=r"someone/model cannot be .* \(the line went dead\)"):
        hub_folder.find("someone/model")


def test_a_byte_order_mark_in_the_config_is_read(spoiled):
    expected = sizes(hub_folder.read(spoiled))
    file = spoiled / "config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert hub_folder.find(spoiled) == spoiled
    assert sizes(hub_folder.read(spoiled)) == expected


def test_a_card_of_published_data_names_them(cirr_run, tmp_path):
    run = whole_checkpoint(cirr_run)
    protocol = {"CIRR val": "gallery of 2297 images, reference removed"}
    made_by = {**run.provenance, "dataset": "CIRR", "data": protocol}
    hub_folder.write(replace(run, provenance=made_by), tmp_path / "real")
    card = ModelCard.load(tmp_path / "real" / "README.md")
    assert "on CIRR, 1 epoch" in card.text or "on CIRR, 2 epochs" in card.text
    assert {r.dataset_type for r in card.data.eval_results} == {"cirr"}
    assert "synthetic" not in card.text


def test_a_card_shows_names_as_text(cirr_run, tmp_path):
    nasty = "<img src=x onerror=alert(1)>"
    run = whole_checkpoint(cirr_run)
    made_by = {**run.provenance, "dataset": f"{nasty}\n# a", "data": {f"{nasty} val": "[a](b) `*|"}}
    config = {**run.config, "dataset": f"{nasty};rm x", "backbone": f"`{nasty}\n```\n{nasty}"}
    changed = replace(run, config=config, provenance=made_by, metrics={f"|{nasty}": 1.0})
    hub_folder.write(changed, tmp_path / nasty)
    card = ModelCard.load(tmp_path / nasty / "README.md")
    shown = "\n".join(re.split(r"^(`{3,})[a-z]+\n.*?^\1$", card.text, flags=re.M | re.S)[::2])
    assert "## Made by" in shown and shown.count("&lt;img") == 4
    assert "<img" not in re.sub("`[^`]*`", "", shown)
    assert not re.search(r"^# a$|```", shown, flags=re.M)
    assert "\\[a\\](b) \\`\\*\\|" in shown and "evaluate --dataset '<img" in card.text
    options = re.search(r"^(`{4,})yaml\n(.*?)^\1$", card.text, flags=re.M | re.S)
    assert options is not None
    assert yaml.safe_load(options[2]) == config_of(tmp_path / nasty)["gatedcir"]["options"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["gatedcir"]["metrics"].update(recall_at1="high"), "whose metrics holds val"),
        (lambda c: c["gatedcir"].update(epoch="2"), "whose epoch is a str"),
        (lambda c: c["gatedcir"].update(provenance=[]), "whose provenance is a list"),
        (lambda c: c["vision_config"].update(qkv_bias="../a"), "no sizes of a BLIP-2 model"),
        (lambda c: c["qformer_config"].update(hidden_size=None), "no sizes of a BLIP-2 model"),
        (lambda c: c["qformer_config"].update(num_hidden_layers=2**70), "layers for .* weights"),
    ],
)
def test_values_of_a_wrong_kind_are_named(hub, tmp_path, change, words):
    folder = shutil.copytree(hub, tmp_path / "hub")
    config = config_of(folder)
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=words) as error:
        load(str(folder))
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_hub_folder_is_described_as_text(hub, tmp_path, capsys):
    nasty = "<img src=x onerror=alert(1)><script>"
    folder = shutil.copytree(hub, tmp_path / nasty)
    (folder / "README.md").write_text(nasty)
    config = config_of(folder)
    config["gatedcir"]["options"]["backbone"] = f"{nasty}\x1b[2J"
    config["gatedcir"]["metrics"][f"{nasty}\x1b[2J"] = 1.0
    (folder / "config.json").write_text(json.dumps(config))
    picture = tmp_path / "a.svg"
    describe.main(["--model-path", str(folder), "--svg", str(picture)])
    assert "\x1b" not in capsys.readouterr().out
    drawn = picture.read_text(encoding="utf-8")
    assert "<img" not in drawn and "<script" not in drawn and "\x1b" not in drawn
    assert "&lt;img src=x" in drawn
