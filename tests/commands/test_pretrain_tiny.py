"""The script that makes the embedded backbone."""

import json
import random
from dataclasses import replace

import pretrain_tiny
import tiny_school
import torch
from conftest import bad
from tiny_lessons import Naming, labels_of, split_places
from tiny_pictures import GROUP, KINDS, draw

from gatedcir.models.weights.sources import load
from gatedcir.synthetic import edits, garments, scenes


def test_a_short_pretraining_writes_a_backbone(tmp_path, monkeypatch):
    def small(lesson):
        return replace(lesson, groups=dict.fromkeys(lesson.groups, 1))

    monkeypatch.setattr(tiny_school, "NAMING", small(tiny_school.NAMING))
    monkeypatch.setattr(tiny_school, "READING", tuple(map(small, tiny_school.READING)))
    output = tmp_path / "tiny"
    pretrain_tiny.main(["--output", str(output), "--share", "0.0001"])
    history = json.loads((output / "pretraining.json").read_text())
    lessons = [tiny_school.NAMING, *tiny_school.READING]
    assert [row["lesson"] for row in history] == [lesson.name for lesson in lessons]
    assert all(0 <= row["val_near"] <= 100 for row in history)
    made, shipped = load(str(output)), load("tiny")
    assert {n: p.shape for n, p in made.backbone.named_parameters()} == {
        n: p.shape for n, p in shipped.backbone.named_parameters()
    }
    assert made.wordpieces.get_vocab() == shipped.wordpieces.get_vocab()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny"]
    bad(pretrain_tiny, ["--output", tmp_path], "is not an empty folder; name a new one")


def test_every_word_of_the_templates_is_one_piece_and_any_other_is_spelled():
    wordpieces = load("tiny").wordpieces
    known = wordpieces.get_vocab()
    words = scenes.words() | edits.words() | garments.words()
    assert all(word in known for word in words if word.isalnum())
    assert wordpieces.tokenize("zyx") == ["z", "##y", "##x"]
    # Marks that the published captions hold, and others that people type.
    typed = "it’s ¾-length, not 3¾; “naïve” … £5 – 20 — façade's"
    assert "[UNK]" not in wordpieces.tokenize(typed)


def test_the_backbone_is_small():
    from importlib.resources import files

    folder = files("gatedcir") / "assets" / "tiny"
    assert sum(len(file.read_bytes()) for file in folder.iterdir()) < 8e6


def test_every_kind_of_group_is_eight_different_pictures_of_the_split():
    for kind, make in KINDS.items():
        for split in ("train", "val"):
            rng = random.Random(f"{kind} {split}")
            for _ in range(5):
                group = make(split, rng)
                assert len(group) == GROUP
                assert len(set(group)) == GROUP
                for one in group:
                    if isinstance(one, scenes.Scene):
                        assert all(scenes.allowed_in(thing, split) for thing in one.things())
                    else:  # families of a held-out split hold training's combinations too
                        assert garments.split_of(one) in {split, "train"}


def test_moved_scenes_differ_in_places_alone():
    for seed in range(20):
        group = KINDS["moved"]("train", random.Random(seed))
        assert len({tuple(sorted(map(repr, scene.things()))) for scene in group}) == 1
        assert len({scene.background for scene in group}) == 1


def test_drawing_depends_on_the_seed_alone():
    first, again, other = (draw("few", "train", groups=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.pixels, again.pixels)
    assert first.shown == again.shown
    assert first.shown != other.shown


def test_names_say_what_stands_in_each_cell():
    thing = scenes.Thing("star", "blue", "dotted", "large")
    cells = [None] * 9
    cells[5] = thing
    dress = garments.sample("dress", "train", random.Random(0))
    labels = labels_of([scenes.Scene(tuple(cells), "mint"), dress])
    empty = len(scenes.SHAPES)
    assert labels["shape"][0].tolist() == [*[empty] * 5, scenes.SHAPES.index("star"), *[empty] * 3]
    assert labels["size"][0].tolist() == [*[-100] * 5, scenes.SIZES.index("large"), *[-100] * 3]
    assert labels["background"].tolist() == [list(scenes.BACKGROUNDS).index("mint"), -100]
    for name, values in garments.ATTRIBUTES["dress"].items():
        assert labels[f"dress-{name}"].tolist() == [-100, list(values).index(dress[name])]
        assert (labels["shape"][1] == -100).all()
    assert (labels[f"shirt-{next(iter(garments.ATTRIBUTES['shirt']))}"] == -100).all()


def test_tokens_that_hold_the_names_are_named_without_loss():
    """The image of one thing per cell: heads that read a one-hot code have no loss."""
    torch.manual_seed(0)
    naming = Naming(16, side=6)
    labels = labels_of([scenes.Scene((None,) * 9, "grey")])
    tokens = torch.randn(1, 37, 16, requires_grad=True)
    losses = naming.losses(tokens, labels)
    assert losses.keys() == {"shape", "background", "garment", "row", "column"}
    assert losses["garment"] == 0
    with torch.no_grad():
        for head in (naming.things["shape"], naming.background):
            torch.nn.init.zeros_(head.weight)
            torch.nn.init.zeros_(head.bias)
        naming.things["shape"].bias[len(scenes.SHAPES)] = 100.0
        naming.background.bias[list(scenes.BACKGROUNDS).index("grey")] = 100.0
    losses = naming.losses(tokens, labels)
    assert losses["shape"] == losses["background"] == 0


def test_positions_tell_every_patch_apart():
    positions = split_places(32, 8)
    gaps = torch.cdist(positions, positions) + 9 * torch.eye(64)
    assert positions.shape == (64, 32)
    assert gaps.min() > 0.05
