"""The picture of the architecture: as the options say, complete, legible, and never out of date."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import bad

from gatedcir.assemble.architecture import letters_of, outline, parts_of
from gatedcir.assemble.model import build
from gatedcir.commands import describe
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse
from gatedcir.outputs import is_own
from gatedcir.resources import count_parameters
from gatedcir.visualize.architecture import to_svg, to_text

ROOT = Path(__file__).parents[2]
EVERYTHING = (
    "--model.visual-layers -1 -4 --model.layer-fusion cross-attention --model.visual-scales 0.5 1.0"
    " 1.5 --model.scale-fusion absi --model.adaptive-scales --model.neck pyramid --model.neck-args "
    "num_levels=2 --model.scale-backbones same same random-vit-l --loss-scale 0.5 1.0 0.5 "
    "--loss-consistency 1 --loss-gate 0.5 --model.gated-fusion.strategy contextual "
    "--model.gated-fusion.reads qformer --model.gated-fusion.blocks 2"
)
CASES = {
    "default": "",
    "published": "--backbone pretrain --model.gated-fusion.strategy none",
    "trained tower": "--train-vision --image-size 80",
    "several scales": "--model.visual-scales 0.5 1.0 --model.scale-fusion mean",
    "everything": EVERYTHING,
}


def drawn(flags):
    config = parse(Config, ["--dataset", "CIRR", *flags.split()], description="")
    model = outline(config)
    return config, model, parts_of(config, model), letters_of(config, model)


def test_the_picture_of_the_docs_is_that_of_today(tmp_path, capsys):
    file = tmp_path / "architecture.svg"
    describe.main(["--config", str(ROOT / "configs" / "cirr.yaml"), "--svg", str(file)])
    printed = capsys.readouterr().out
    assert is_own(file, "architecture")
    assert "Gated fusion: gated" in printed and "0.4 · loss_rtc" in printed
    kept = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert file.read_text(encoding="utf-8") == kept, (
        "run: gatedcir describe --config configs/cirr.yaml --svg docs/architecture.svg"
    )


@pytest.mark.parametrize("flags", CASES.values(), ids=CASES)
def test_all_parameters_are_in_the_picture(flags):
    _, model, parts, _ = drawn(flags)
    unused = sum(weight.numel() for weight in model.backbone.itm_head.parameters())
    found = count_parameters(model)
    trained = sum(part.trained for part in parts)
    assert trained == found["trainable_parameters"]
    assert trained + sum(part.frozen for part in parts) == found["parameters"] - unused


def test_the_outline_is_the_model():
    flags = CASES["several scales"]
    config, model, _, _ = drawn(flags)
    real, _ = build(config)
    sizes = {name: (weight.shape, weight.requires_grad) for name, weight in real.named_parameters()}
    assert sizes == {n: (w.shape, w.requires_grad) for n, w in model.named_parameters()}
    assert real.level_shapes() == model.level_shapes()


def test_every_choice_is_named():
    config, model, parts, letters = drawn(EVERYTHING)
    text = to_text(parts, letters)
    for words in (
        "scale 0.5: same, 6 blocks, [B, 17, 128]",
        "scale 1.5: random-vit-l, 21 blocks, [B, 50, 1024]",
        "layers read: -1 -4\n  → 6 x [B, L, Dv]",
        "Scale fusion: absi",
        "chooses the scales that an image needs\n  → 2 x [B, L, Dv]",
        "Layer fusion: cross-attention",
        "Neck: pyramid num_levels=2",
        "main layer at scale 1.0 + gain",
        "Gated fusion: contextual, reads Start as the identity and Words",
        "for the gate: through the Q-Former's text half",
        "2 of them, one after the other",
        "0.5 1 0.5 · loss_scale",
        "1 · loss_consistency",
        "0.5 · loss_gate",
        f"Q: query tokens ({model.backbone.num_query_tokens})",
        f"B: batch ({config.optim.batch_size})",
    ):
        assert words in text
    none = to_text(*drawn("--model.gated-fusion.strategy none")[2:])
    assert "Q-Former, first pass, reads Last LayerNorm of the tower and Words" in none
    assert "fusion:" not in none and "loss_gate" not in none


@pytest.mark.parametrize("flags", CASES.values(), ids=CASES)
def test_boxes_do_not_overlap_and_hold_their_texts(flags):
    _, _, parts, letters = drawn(flags)
    picture = ElementTree.fromstring(to_svg(parts, letters, title="a"))
    _, _, width, height = map(float, picture.get("viewBox").split())

    def those(tag):
        return [one for one in picture.iter() if one.tag.endswith(tag)]

    ground, *found = [
        tuple(float(one.get(name)) for name in ("x", "y", "width", "height"))
        for one in those("rect")
    ]
    assert ground == (0, 0, width, height)
    boxes = [(left, top, left + wide, top + high) for left, top, wide, high in found]
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        for other in boxes[:number]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    inside = 0
    for text in those("text"):
        left, bottom, size = (float(text.get(name)) for name in ("x", "y", "font-size"))
        assert size / 2 >= 11  # pixels at half the picture's size
        end = left + len(text.text) * 0.5 * size
        assert end <= width and bottom <= height
        for box in boxes[: len(parts)]:
            if box[0] <= left <= box[2] and box[1] <= bottom <= box[3]:
                inside += 1
                assert end <= box[2] and bottom + size / 4 <= box[3]
    assert inside >= sum(1 + len(part.texts) for part in parts)
    # Every arrow ends at the edge of a box.
    for path in those("path")[1:]:
        x, y = map(float, path.get("d").split("L")[-1].split())
        assert any(
            (x == box[0] and box[1] < y < box[3]) or (y == box[1] and box[0] < x < box[2])
            for box in boxes
        )


def test_mistakes_are_told_in_a_sentence(cirr_run, tmp_path):
    bad(describe, ["--model-path", cirr_run, "--batch-size", 3], "--model-path", "its own options")
    bad(describe, ["--svg", tmp_path], "--svg", str(tmp_path))
    bad(describe, ["--backbone", tmp_path / "none"], "no weights", "none")
    bad(describe, ["--image-size", "65"], "--image-size 65", "patch")
    bad(describe, "--model.visual-layers -1 99 --model.layer-fusion mean".split(), "99")


def test_a_trained_model_is_drawn_too(cirr_run, tmp_path, capsys):
    describe.main(["--model-path", str(cirr_run), "--svg", str(tmp_path / "a.svg")])
    assert f"picture: {tmp_path / 'a.svg'}" in capsys.readouterr().out
    picture = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "Gated fusion: gated" in picture and "65, 128" in picture
