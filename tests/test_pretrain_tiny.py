"""The script that makes the embedded backbone."""

import json

import pretrain_tiny

from gatedcir.models.sources import load
from gatedcir.synthetic import edits, garments, scenes


def test_a_short_pretraining_writes_a_backbone(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_tiny, "evaluate", lambda *args: 12.5)
    output = tmp_path / "tiny"
    flags = ["--steps", "2", "--groups", "2", "--group-size", "2", "--save-every", "1"]
    pretrain_tiny.main(["--output", str(output), *flags])
    assert [row["step"] for row in json.loads((output / "pretraining.json").read_text())] == [1, 2]
    made, shipped = load(str(output)), load("tiny")
    assert {n: p.shape for n, p in made.backbone.named_parameters()} == {
        n: p.shape for n, p in shipped.backbone.named_parameters()
    }
    assert made.wordpieces.get_vocab() == shipped.wordpieces.get_vocab()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny"]


def test_every_word_of_the_templates_is_one_piece_and_any_other_is_spelled():
    wordpieces = load("tiny").wordpieces
    known = wordpieces.get_vocab()
    words = scenes.words() | edits.words() | garments.words()
    assert all(word in known for word in words if word.isalnum())
    assert wordpieces.tokenize("zyx") == ["z", "##y", "##x"]


def test_the_backbone_is_small():
    from importlib.resources import files

    folder = files("gatedcir") / "assets" / "tiny"
    assert sum(len(file.read_bytes()) for file in folder.iterdir()) < 8e6
