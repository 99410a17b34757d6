"""Weights out again: the same tensors in every layout, or one sentence."""

import json
from dataclasses import replace

import export_weights
import pytest
import torch
from conftest import whole_checkpoint
from published_model import FIXTURES, SPRC, golden_weights, write_file

from gatedcir.assemble.model import open_trained
from gatedcir.errors import UserError
from gatedcir.models.backbone import Backbone
from gatedcir.models.weights import hub_folder
from gatedcir.models.weights.names import without_dropped
from gatedcir.models.weights.sources import load
from gatedcir.pretrained import TrainedRetriever, _without_fusion


def export(model, output, kind, *more):
    flags = ["--model-path", model, "--output", output, "--format", kind, *more]
    export_weights.main([str(flag) for flag in flags])
    return output


def read(file):
    return torch.load(file, weights_only=True)


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name
        assert found[name].dtype == weight.dtype, name


def refused(words, *arguments):
    with pytest.raises(UserError) as error:
        export(*arguments)
    message = str(error.value)
    assert len(message.splitlines()) == 1 and message.endswith(".") and ". " not in message
    assert all(word in message for word in words), message


@pytest.fixture
def out(tmp_path):
    """A folder that stays empty where a test only refuses."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def nothing_written(out):
    yield
    assert list(out.iterdir()) == []


def test_sprcs_own_file_comes_out_as_it_went_in(sprc_file, out, capsys):
    file = export(sprc_file, out / "again.pt", "sprc")
    assert capsys.readouterr().out.splitlines()[-1] == str(file)
    assert sorted(path.name for path in out.iterdir()) == ["again.pt", "config.json", "vocab.txt"]
    content = read(file)
    assert list(content) == ["epoch", SPRC]
    same(content[SPRC], without_dropped(golden_weights()))
    assert (out / "vocab.txt").read_text() == (FIXTURES / "vocab.txt").read_text()
    before, after = (open_trained(str(path)) for path in (sprc_file, file))
    same(after[0].state_dict(), before[0].state_dict())
    texts = ["make the dog stand on grass", "zyzzyva"]
    assert torch.equal(after[1](texts).input_ids, before[1](texts).input_ids)


def test_a_lavis_file_comes_out_as_it_went_in(tmp_path, out):
    weights = {n: w for n, w in golden_weights().items() if n != "prompt_tokens"}
    source = write_file(tmp_path / "in", {"model": weights}, name="blip2.pth")
    content = read(export(source, out / "blip2.pth", "lavis"))
    assert list(content) == ["model"]
    same(content["model"], without_dropped(weights))


def test_layouts_follow_one_another(sprc_file, out):
    """SPRC -> hub -> LAVIS -> hub: the backbone and the temperature stay what they are."""
    export(sprc_file, out / "hub", "hub")
    export(out / "hub", out / "lavis" / "blip2.pth", "lavis")
    export(out / "lavis" / "blip2.pth", out / "again", "hub")
    before, after = (TrainedRetriever.from_pretrained(p) for p in (sprc_file, out / "again"))
    same(after.model.backbone.state_dict(), before.model.backbone.state_dict())
    assert torch.equal(after.model.temp, before.model.temp)
    assert after.tokenizer.wordpiece.get_vocab() == before.tokenizer.wordpiece.get_vocab()


def test_a_clip_tower_goes_out_and_in(tmp_path, out, sprc_file, monkeypatch):
    source = TrainedRetriever.from_pretrained(sprc_file)
    config = source.model.backbone.config.to_dict()
    config["vision_config"]["pre_layernorm"] = True
    torch.manual_seed(0)
    model = type(source.model)(Backbone.from_config(config))
    clip = TrainedRetriever(model, source.tokenizer, source.config)
    clip.save_pretrained(tmp_path / "hub")
    file = export(tmp_path / "hub", out / "vitL.pt", "sprc")
    assert "visual_encoder.ln_pre.weight" in read(file)[SPRC]
    same(open_trained(str(file))[0].state_dict(), model.state_dict())


def test_a_hub_folder_has_the_run(cirr_run, out):
    folder = export(cirr_run, out / "hub", "hub")
    same(hub_folder.read(folder).weights, whole_checkpoint(cirr_run).weights)


@pytest.mark.parametrize("kind", ["lavis", "sprc"])
@pytest.mark.usefixtures("nothing_written")
def test_a_fusion_is_not_lost_in_silence(cirr_run, out, kind):
    words = ("gated fusion", f"--format {kind}", "--drop-fusion")
    refused(words, cirr_run, out / "model.pt", kind)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("visual-layers", [-4], "other layers"), ("neck", "unet", "unet neck")],
)
def test_a_visual_fusion_is_not_lost_in_silence(cirr_run, option, value, words):
    run = whole_checkpoint(cirr_run)
    model = run.config["model"] | {"gated-fusion": {"strategy": "none"}}
    plain = replace(run, config=run.config | {"model": model})
    assert "fusion.alpha" not in _without_fusion(plain, "it", "sprc", allowed=False).weights
    fused = replace(run, config=run.config | {"model": model | {option: value}})
    with pytest.raises(UserError, match=words):
        _without_fusion(fused, "it", "sprc", allowed=False)


def test_a_fusion_may_be_dropped_aloud(cirr_run, out):
    file = export(cirr_run, out / "model.pt", "sprc", "--drop-fusion")
    run = whole_checkpoint(cirr_run)
    rest = {name: w.clone() for name, w in run.weights.items() if not name.startswith("fusion.")}
    for name, weight in rest.items():
        if name.endswith("self_attn.qkv.bias"):
            weight.chunk(3)[1].zero_()  # the key's, which no output depends on
    found = open_trained(str(file))
    same(found[0].state_dict(), rest)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = open_trained(str(cirr_run))[0].encode_target(pixels)
        torch.testing.assert_close(found[0].encode_target(pixels), expected)
    assert found[2].model.gated_fusion.strategy == "none"
    assert read(file)["epoch"] == run.epoch
    # A [DEC] that is not the last entry stays where it is.
    assert "[DEC]" in (out / "vocab.txt").read_text().splitlines()
    texts = ["make it red", "zyzzyva"]
    expected = open_trained(str(cirr_run))[1](texts).input_ids
    assert torch.equal(found[1](texts).input_ids, expected)


def test_sizes_go_with_the_file(cirr_run, out):
    export(cirr_run, out / "model.pt", "sprc", "--drop-fusion")
    config = json.loads((out / "config.json").read_text())
    expected = load(str(cirr_run)).backbone.config.to_dict()
    assert Backbone.without_weights(config).config.to_dict() == expected


@pytest.mark.parametrize("name", ["model.pt", "vocab.txt", "config.json"])
def test_nothing_is_overwritten(sprc_file, out, name):
    (out / name).write_text("mine")
    refused([str(out / name), "there already", "new folder"], sprc_file, out / "model.pt", "sprc")
    refused([str(out), "is not an empty folder", "--output"], sprc_file, out, "hub")
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, "mine")]


@pytest.mark.usefixtures("nothing_written")
def test_a_write_that_fails_leaves_nothing(sprc_file, out, monkeypatch):
    def full(content, file):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("gatedcir.pretrained.torch.save", full)
    with pytest.raises(OSError, match="No space"):
        export(sprc_file, out / "model.pt", "sprc")


@pytest.mark.usefixtures("nothing_written")
def test_options_that_contradict_one_another(cirr_run, out):
    refused(["--drop-fusion"], cirr_run, out / "hub", "hub", "--drop-fusion")
    refused(["--push", "sprc"], cirr_run, out / "a.pt", "sprc", "--push", "someone/model")
    refused(["'some one'", "user/model"], cirr_run, out / "hub", "hub", "--push", "some one")
    refused(["nowhere"], "nowhere", out / "hub", "hub")
    refused(["a.txt", "let it end in .pt"], cirr_run, out / "a.txt", "sprc")
    refused(["blip2", "let it end in .pth"], cirr_run, out / "blip2", "lavis")


def test_the_folder_is_kept_and_pushed(cirr_run, out, monkeypatch, capsys):
    pushed = []

    class Api:
        endpoint = "https://hub"

        def create_repo(self, repository, **options):
            pushed.append(repository)

        def upload_folder(self, *, repo_id, folder_path):
            pushed.extend(sorted(path.name for path in folder_path.iterdir()))

    monkeypatch.setattr(hub_folder, "HfApi", Api)
    export(cirr_run, out / "hub", "hub", "--push", "someone/model")
    assert pushed == ["someone/model", *sorted(path.name for path in (out / "hub").iterdir())]
    assert capsys.readouterr().out.split()[-2:] == [str(out / "hub"), "https://hub/someone/model"]
