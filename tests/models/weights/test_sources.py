"""Weights of every kind give the same model; what is wrong with a file is said in one sentence."""

import json
import os

import pytest
import torch
from conftest import whole_checkpoint
from huggingface_hub.errors import LocalEntryNotFoundError
from published_model import FIXTURES, SPRC, golden_config, golden_weights, write_file

from gatedcir.assemble.model import build, open_trained
from gatedcir.errors import UserError
from gatedcir.models.backbone import Backbone
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.weights import beside, locations, sources, vocabulary
from gatedcir.models.weights.names import from_sprc
from gatedcir.models.weights.sizes import VIT_G
from gatedcir.models.weights.sources import load
from gatedcir.models.weights.vocabulary import read_wordpieces, wordpieces_from_json
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse


def lavis_weights():
    weights = golden_weights()
    del weights["prompt_tokens"]
    return weights


def make(name, *flags):
    argv = ["--dataset", "CIRR", "--backbone", str(name), *flags]
    return build(parse(Config, argv, description=""))[0]


def refused(name, *words):
    with pytest.raises(UserError) as error:
        load(str(name))
    message = str(error.value)
    assert len(message.splitlines()) == 1 and message.endswith(".") and ". " not in message
    assert all(word in message for word in (str(name), *words)), message
    return message


def same_backbone(found, expected):
    for name, weight in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name


@pytest.fixture
def sprc(sprc_file):
    return load(str(sprc_file))


def test_an_sprc_file_gives_all_of_the_model(sprc):
    expected = from_sprc(golden_weights())
    assert sprc.own.keys() == {"prompt_tokens", "temp"}
    model = ComposedRetriever(sprc.backbone)
    model.load_state_dict(sprc.own, strict=False)
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert "SPRC" in sprc.description
    assert sprc.wordpieces.convert_tokens_to_ids("[DEC]") == 177


def test_a_lavis_file_gives_the_same_backbone(tmp_path, sprc):
    content = {"model": lavis_weights(), "epoch": 3, "config": {"run": {"task": "retrieval"}}}
    found = load(str(write_file(tmp_path, content, name="blip2.pth")))
    same_backbone(found.backbone, sprc.backbone)
    assert found.own.keys() == {"temp"}
    assert "LAVIS" in found.description


def test_a_hub_folder_gives_the_same_backbone(tmp_path, sprc):
    sprc.backbone.save_pretrained(tmp_path, dtype=torch.float32)
    sprc.wordpieces.save_pretrained(tmp_path)
    for name in (tmp_path, tmp_path / "model.safetensors"):
        found = load(str(name))
        same_backbone(found.backbone, sprc.backbone)
        assert found.own == {}
        assert found.wordpieces.get_vocab() == sprc.wordpieces.get_vocab()


def test_an_own_run_gives_the_same_model(cirr_run):
    run = whole_checkpoint(cirr_run)
    found = load(str(cirr_run))
    assert found.run is not None and found.run.epoch == run.epoch
    whole = {f"backbone.{n}": w for n, w in found.backbone.state_dict().items()} | found.own
    assert whole.keys() == run.weights.keys()
    assert all(torch.equal(whole[name], weight) for name, weight in run.weights.items())


def test_training_starts_with_prompts_temperature_and_fusion_of_its_source(
    sprc_file, sprc, cirr_run, capsys
):
    model = make(sprc_file)
    assert torch.equal(model.prompt_tokens, sprc.own["prompt_tokens"])
    assert model.temp.item() == pytest.approx(0.05)
    assert "SPRC" in capsys.readouterr().out
    weights = whole_checkpoint(cirr_run).weights
    again = make(cirr_run)
    assert all(torch.equal(w, weights[n]) for n, w in again.state_dict().items())
    other = make(cirr_run, "--model.gated-fusion.strategy", "additive")
    assert "but not fusion." in capsys.readouterr().out
    assert torch.equal(other.prompt_tokens, weights["prompt_tokens"])
    assert other.prompt_tokens.requires_grad and not other.backbone.itm_head.weight.requires_grad


def test_other_weights_are_evaluated_as_the_published_baseline(tmp_path, sprc_file):
    for name in (sprc_file, write_file(tmp_path, {"model": lavis_weights()})):
        model, _, config = open_trained(str(name))
        assert config.model.gated_fusion.strategy == "none"
        assert (config.transform.transform, config.transform.target_ratio) == ("targetpad", 1.25)
        assert not model.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_become_float32(tmp_path, dtype):
    weights = {n: w.to(dtype) if w.is_floating_point() else w for n, w in golden_weights().items()}
    file = write_file(tmp_path, {"epoch": 1, SPRC: weights})
    model = open_trained(str(file))[0]
    assert {n: w.dtype for n, w in model.state_dict().items() if w.dtype != torch.float32} == {}
    assert torch.equal(model.backbone.query_tokens, weights["query_tokens"].float())
    hub = tmp_path / "hub"
    model.backbone.save_pretrained(hub, dtype=dtype)
    load(str(file)).wordpieces.save_pretrained(hub)
    found = load(str(hub)).backbone
    assert {w.dtype for w in found.state_dict().values()} == {torch.float32}


def test_names_that_are_missing_or_unexpected_or_misshapen(tmp_path):
    weights = golden_weights()
    gone = sorted(name for name in weights if ".layer.3." in name)
    for name in gone:
        del weights[name]
    weights["fresh.weight"] = torch.ones(2)
    weights["text_proj.bias"] = torch.ones(33)
    file = write_file(tmp_path, {"epoch": 1, SPRC: weights})
    message = refused(file, f"{len(gone)} missing", "1 unexpected (fresh.weight)", "[33], not [32]")
    assert gone[9] in message and gone[10] not in message
    for name in ("prompt_tokens", "temp"):
        short = golden_weights()
        del short[name]
        refused(write_file(tmp_path, {"epoch": 1, SPRC: short}), f"1 missing ({name})")


def test_a_hub_folder_is_checked_by_name_too(tmp_path, sprc):
    from safetensors.torch import load_file, save_file

    sprc.backbone.save_pretrained(tmp_path, dtype=torch.float32)
    sprc.wordpieces.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["strange"] = torch.ones(1)
    del weights["query_tokens"]
    weights["vision_projection.bias"] = torch.ones(5)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refused(tmp_path, "query_tokens", "strange", "vision_projection.bias")


def test_the_frozen_tower_that_lavis_leaves_out(tmp_path, sprc, monkeypatch):
    weights = lavis_weights()
    prefix = "visual_encoder."
    tower = {n.removeprefix(prefix): weights.pop(n) for n in list(weights) if n.startswith(prefix)}
    file = write_file(tmp_path, {"model": weights})
    refused(file, "no vision tower")
    monkeypatch.setitem(beside._TOWERS, 48, ("eva.pth", golden_config()))
    refused(file, "eva.pth", "download", str(tmp_path))
    torch.save(
        {**tower, "head.weight": torch.ones(3), "blocks.4.norm1.bias": torch.ones(3)},
        tmp_path / "eva.pth",
    )
    same_backbone(load(str(file)).backbone, sprc.backbone)
    del tower["cls_token"]
    torch.save(tower, tmp_path / "eva.pth")
    with pytest.raises(UserError, match=r"eva\.pth.*1 missing \(visual_encoder\.cls_token\)"):
        load(str(file))


def test_another_architecture(tmp_path):
    resnet = {"conv1.weight": torch.ones(3), "fc.bias": torch.ones(2)}
    refused(write_file(tmp_path, {"model": resnet}), "no BLIP-2 Q-Former", "conv1.weight")
    refused(write_file(tmp_path, resnet), "no checkpoint of this project")
    refused(write_file(tmp_path, {"model": [1, 2]}), "no weights by name")
    refused(write_file(tmp_path, [1]), "no checkpoint of this project")


def test_a_rerank_model(tmp_path):
    content = {"epoch": 1, "Blip2QformerCirRerank": golden_weights()}
    refused(write_file(tmp_path, content), "Blip2QformerCirRerank", SPRC)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_truncated_file(tmp_path, sprc_file, share):
    content = sprc_file.read_bytes()
    (tmp_path / "half.pt").write_bytes(content[: int(share * len(content))])
    refused(tmp_path / "half.pt", "damaged")


def test_a_damaged_tokenizer():
    with pytest.raises(UserError, match="tokenizer in the checkpoint"):
        wordpieces_from_json('{"model": {}}')


class _RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code(tmp_path):
    made = tmp_path / "made"
    file = write_file(tmp_path, {"epoch": _RunsCode(made), SPRC: golden_weights()})
    refused(file, "run code", "not opened")
    assert not made.exists()


def test_a_vocabulary_of_another_size(tmp_path):
    file = write_file(tmp_path, {"epoch": 1, SPRC: golden_weights()})
    words = (tmp_path / "vocab.txt").read_text().split()
    (tmp_path / "vocab.txt").write_text("\n".join([*words, "zyx1", "zyx2"]) + "\n")
    with pytest.raises(UserError, match=r"179 entries where the weights have 178.*vocab\.txt"):
        load(str(file))


@pytest.fixture
def hub(monkeypatch):
    """A hub that has only what its entry says: repository and file -> path."""
    cached = {}

    def download(repository, name, *, local_files_only=False):
        if (repository, name) not in cached:
            raise LocalEntryNotFoundError("nothing cached")
        return str(cached[repository, name])

    monkeypatch.setattr(vocabulary, "hf_hub_download", download)
    monkeypatch.setattr(vocabulary, "is_reachable", lambda repository: False)
    return cached


def test_no_vocabulary_to_be_had(tmp_path, hub):
    file = write_file(tmp_path, {"epoch": 1, SPRC: golden_weights()}, vocabulary=False)
    refused(file, "vocab.txt", "download", str(tmp_path))


def test_bert_has_its_vocabulary_where_none_lies_beside(tmp_path, hub):
    file = write_file(tmp_path, {"epoch": 1, SPRC: golden_weights()}, vocabulary=False)
    hub["bert-base-uncased", "vocab.txt"] = FIXTURES / "vocab.txt"
    found, beside = load(str(file)).wordpieces, read_wordpieces(str(FIXTURES), rows=178)
    assert found.convert_tokens_to_ids("[DEC]") == 177
    text = "the dog is standing on grass, zyzzyva"
    assert found(text)["input_ids"] == beside(text)["input_ids"]


def test_sizes_that_are_not_to_be_had(tmp_path):
    file = write_file(tmp_path, {"epoch": 1, SPRC: golden_weights()})
    (tmp_path / "config.json").unlink()
    refused(file, "48 wide", "config.json")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match=r"config\.json holds no sizes of a BLIP-2 model"):
        load(str(file))


def test_pretrain_vit_l_is_looked_for_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"blip2_pretrained_vitL\.pth.*https://storage\.googleapis"):
        load("pretrain_vitL")
    write_file(tmp_path, {"model": lavis_weights()}, name="blip2_pretrained_vitL.pth")
    assert load("pretrain_vitL").backbone.vision_width == 48


def test_a_slip_in_a_path_is_no_hub_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(locations, "is_reachable", lambda name: asked.append(name) or False)
    (tmp_path / "runs").mkdir()
    refused("runs/none", "no weights", "kept its weights")
    assert asked == []
    refused("someone/blip2", "hf download someone/blip2")
    assert asked == ["someone/blip2"]


def test_another_image_size_interpolates_positions(sprc_file, capsys):
    model = make(sprc_file, "--image-size", "48")
    assert "32 px to 48 px" in capsys.readouterr().out
    assert model.backbone.image_size == 48
    before = load(str(sprc_file)).backbone.vision_model.embeddings.position_embedding
    after = model.backbone.vision_model.embeddings.position_embedding
    assert after.shape == (1, 37, 48) and not after.requires_grad
    assert torch.equal(after[:, 0], before[:, 0])
    with torch.no_grad():
        own = load(str(sprc_file)).backbone.vision_model.embeddings
        expected = own.interpolate_pos_encoding(torch.empty(1, 37, 48), 48, 48)
        torch.testing.assert_close(after, expected)
        assert model.levels(torch.randn(1, 3, 48, 48))[0].shape == (1, 37, 48)
    # The config tells the new size to checkpoints, and positions fit it without another change.
    empty = Backbone.without_weights(model.backbone.config.to_dict())
    rebuilt = empty.around(model.backbone.state_dict())
    same_backbone(rebuilt, model.backbone)
    assert model.feature_bytes(torch.float32) == 37 * 48 * 4
    with pytest.raises(UserError, match=r"--image-size 50.*8 px"):
        make(sprc_file, "--image-size", "50")


def test_the_weights_own_size_changes_nothing(sprc_file, sprc, capsys):
    same_backbone(make(sprc_file, "--image-size", "32").backbone, sprc.backbone)
    assert "interpolated" not in capsys.readouterr().out


def test_random_weights_at_real_sizes(monkeypatch):
    config = golden_config()
    config["qformer_config"]["vocab_size"] = 450
    monkeypatch.setitem(sources.RANDOM, "random-vit-g", config)
    first, second = load("random-vit-g"), load("random-vit-g")
    same_backbone(first.backbone, second.backbone)
    assert len(first.wordpieces) == 450
    assert max(first.wordpieces("zyzzyva and more")["input_ids"]) < 450
    norms = [w for n, w in first.backbone.named_parameters() if n.endswith("layernorm.weight")]
    assert norms and all((w == 1).all() for w in norms)
    model = make("random-vit-g")
    with torch.no_grad():
        features = model.encode_target(torch.randn(2, 3, 32, 32))
    assert features.isfinite().all() and features.std() > 0.01


def test_the_real_size_has_a_billion_parameters():
    whole = Backbone.without_weights(VIT_G)
    assert sum(p.numel() for p in whole.parameters()) > 1.1e9
    assert (whole.token_count(), whole.vision_width) == (257, 1408)
