"""The scripts around salesforce-lavis, as far as they go without it (else `make test-lavis`)."""

import sys
from pathlib import Path

import compare_with_lavis
import lavis_weights
import pytest
import torch
from torch import nn

from gatedcir.errors import UserError


class TinyTokenizer:
    def save_vocabulary(self, folder):
        (Path(folder) / "vocab.txt").write_text("[PAD]\n")


class TinyModel(nn.Module):
    """What the scripts ask of a LAVIS model."""

    tokenizer = TinyTokenizer()

    def __init__(self):
        super().__init__()
        self.visual_encoder = nn.Linear(2, 2)
        self.text_proj = nn.Linear(2, 2)

    def load_checkpoint(self, path):
        return self.load_state_dict(torch.load(path)["model"], strict=False)


@pytest.fixture
def apart(monkeypatch):
    """Imports as they were, afterwards."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_weights_and_vocabulary_are_written_together(tmp_path):
    model = TinyModel()
    file = lavis_weights.write(model, tmp_path / "out", name="blip2.pth")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["blip2.pth", "vocab.txt"]
    written = torch.load(file, weights_only=True)["model"]
    assert written.keys() == model.state_dict().keys()
    assert torch.equal(written["text_proj.weight"], model.text_proj.weight)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    with pytest.raises(UserError, match="is there already"):
        lavis_weights.write(model, tmp_path / "out", name="blip2.pth")


def test_a_checkpoint_may_lack_the_frozen_tower_only(tmp_path):
    trained, model, file = TinyModel(), TinyModel(), tmp_path / "checkpoint.pth"
    weights = trained.state_dict()
    head = {name: w for name, w in weights.items() if name.startswith("text_proj")}
    torch.save({"model": head}, file)
    lavis_weights.lay_over(model, file)
    assert torch.equal(model.text_proj.weight, trained.text_proj.weight)
    assert not torch.equal(model.visual_encoder.weight, trained.visual_encoder.weight)
    torch.save({"model": {"text_proj.weight": head["text_proj.weight"]}}, file)
    with pytest.raises(UserError, match=r"1 names differ, text_proj\.bias for one"):
        lavis_weights.lay_over(model, file)
    torch.save({"model": {**head, "head.weight": torch.ones(1)}}, file)
    with pytest.raises(UserError, match=r"head\.weight"):
        lavis_weights.lay_over(model, file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{file.name} is not a checkpoint"):
        lavis_weights.lay_over(model, file)


@pytest.mark.usefixtures("apart")
def test_stand_ins_are_empty_and_refuse_to_be_called():
    sys.meta_path.append(lavis_weights._StandIns())
    import pycocoevalcap.eval as absent

    class Dataset(absent.Base):
        pass

    assert "Base" in repr(absent.Base.KIND.OTHER)
    with pytest.raises(NotImplementedError, match=r"pycocoevalcap\.eval\.Base\.KIND is a stand-in"):
        absent.Base.KIND()
    with pytest.raises(NotImplementedError, match="stand-in"):
        Dataset()
    with pytest.raises(ModuleNotFoundError):
        import gatedcir_no_such_module  # noqa: F401


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "."], "is there already"),
        (["--output", "new", "--checkpoint", "no.pth"], "there is no checkpoint no.pth"),
        (["--output", "new"], "lavis is not installed"),
    ],
)
def test_bad_input_is_one_sentence(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").touch()
    with pytest.raises(UserError, match=message):
        lavis_weights.main(["--model-type", "pretrain", *flags])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("difference", [3e-6, float("nan")])
def test_a_difference_is_an_error(difference, tmp_path, monkeypatch, capsys):
    rows = {"image_embeds": ([1, 2], 1.0, 1e-6), "itm": ([1], 1.0, difference)}
    monkeypatch.setattr(compare_with_lavis, "compare", lambda _: rows)
    for tower in compare_with_lavis.TOWERS:
        (tmp_path / tower).mkdir()
        (tmp_path / tower / "config.json").write_text('{"made_with": {"lavis": "0"}}')
    with pytest.raises(UserError, match=r"vit_g's itm") as caught:
        compare_with_lavis.main(["--reference", str(tmp_path)])
    assert "image_embeds" not in str(caught.value)
    assert "| image_embeds | [1, 2] | 1.00 | 1.0e-06 |" in capsys.readouterr().out


def test_a_missing_reference_is_said(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        compare_with_lavis.main(["--reference", str(tmp_path / "none")])
    with pytest.raises(UserError, match=r"there is no .*blip2\.pth"):
        compare_with_lavis.compare(tmp_path)
