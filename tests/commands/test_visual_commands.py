"""Several layers and scales, a neck and attention to words, through every command that reads them.

One run has all of them, its options partly from a file and partly from flags.
"""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest
import visualize_fusion
import visualize_gates
import yaml
from conftest import SHORT, bad
from PIL import Image

import blip_fine_tune_2
import blip_validate
from gatedcir.assemble.evaluator import open_checkpoint
from gatedcir.assemble.model import restore
from gatedcir.models.backbone import Backbone
from gatedcir.run_folder import checkpoint

OPTIONS = """
loss-scale: 0.5
model:
  visual-scales: [0.5, 1.0, 1.5]
  scale-fusion: absi
  neck: pyramid-pooling
  gated-fusion: {strategy: contextual}
"""
LAYERS = "--model.visual-layers -1 -4 --model.layer-fusion dynamic".split()
TEXT = "the same one but with a dog"


@pytest.fixture(scope="module")
def data(home):
    return ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset")]


@pytest.fixture(scope="module")
def visual_run(home, data):
    run = home / "visual_run"
    (home / "visual.yaml").write_text(OPTIONS)
    flags = ["--config", str(home / "visual.yaml"), *data, *SHORT, *LAYERS, "--num-epochs", "1"]
    flags += ["--learning-rate", "1e-3", "--save-training", "--output", str(run)]
    blip_fine_tune_2.main(flags)
    return run


def test_a_run_with_all_of_them_learns_and_keeps_its_options(visual_run):
    kept = yaml.safe_load((visual_run / "config.yaml").read_text())["model"]
    assert kept["visual-layers"] == [-1, -4]
    assert kept["visual-scales"] == [0.5, 1.0, 1.5]
    logged = pd.read_csv(visual_run / "train_metrics.csv")
    assert logged["loss_scale"].item() > 0
    assert logged["visual_fusion_gain"].item() > 0
    model, _, config = open_checkpoint(visual_run)
    assert (model.layers, model.scales) == ((-1, -4), (0.5, 1.0, 1.5))
    assert (config.model.neck, config.loss.loss_scale) == ("pyramid-pooling", 0.5)
    assert model.visual_fusion.fuse.gain.abs().max() > 0
    blip_fine_tune_2.main(["--resume", str(visual_run)])  # nothing is left to do, nor refused


def test_its_path_alone_repeats_its_validation(visual_run, data, tmp_path):
    out = tmp_path / "metrics.json"
    flags = [*data, "--num-workers", "0", "--model-path", str(visual_run)]
    blip_validate.main([*flags, "--json", str(out)])
    last = pd.read_csv(visual_run / "validation_metrics.csv").iloc[-1].drop("epoch")
    metrics = json.loads(out.read_text())["metrics"]
    assert metrics == pytest.approx(last.drop(["gate_auc_within", "change_auc_within"]).to_dict())


def test_it_is_drawn(home, visual_run, data, tmp_path, capsys):
    flags = ["--model-path", str(visual_run), "--output", str(tmp_path)]
    image = next((home / "fashionIQ_dataset" / "images").iterdir())
    visualize_fusion.main([*flags, *data, "--num", "1"])
    visualize_fusion.main([*flags, "--image", str(image), "--text", TEXT, "--text", "?"])
    visualize_gates.main([*flags, "--image", str(image), "--text", TEXT])
    files = [line for line in capsys.readouterr().out.splitlines() if line.endswith(".png")]
    assert len(files) == 4 and sorted(map(str, tmp_path.iterdir())) == sorted(files)
    of_query, with_words, without, _ = (Image.open(file).size for file in files)
    # The text's words are drawn below the rest.
    assert of_query[1] > without[1] and with_words[1] > without[1]


def test_its_gate_is_drawn_with_its_words_and_the_direction_of_the_change(
    home, visual_run, data, tmp_path, monkeypatch
):
    rows = []
    monkeypatch.setattr(
        "gatedcir.visualize.gate_figure.save_gate_figure", lambda _, more, **__: rows.extend(more)
    )
    flags = ["--model-path", str(visual_run), "--output", str(tmp_path), "--delta"]
    image = next((home / "fashionIQ_dataset" / "images").iterdir())
    visualize_gates.main([*flags, "--image", str(image), "--text", "A dog, and: a dog!"])
    visualize_gates.main([*flags, *data, "--num", "1"])
    alone, query = rows
    assert [word for word, _ in alone.words] == ["a", "dog", "and", "a", "dog"]
    assert sum(share for _, share in alone.words) == pytest.approx(1)
    assert "first component" in alone.direction.title and alone.direction.most == 3
    assert alone.direction.values.std() == pytest.approx(1, rel=1e-3)
    assert "cosine" in query.direction.title and query.direction.most == 1
    assert abs(query.direction.values).max() <= 1 + 1e-6


def test_queries_or_texts_stand_on_one_sheet(home, visual_run, data, tmp_path, monkeypatch, capsys):
    sheets = []
    monkeypatch.setattr(
        "gatedcir.visualize.gate_sheet.save_gate_sheet", lambda path, rows, **_: sheets.append(rows)
    )
    flags = ["--model-path", str(visual_run), "--output", str(tmp_path), "--sheet"]
    image = next((home / "fashionIQ_dataset" / "images").iterdir())
    visualize_gates.main([*flags, "--image", str(image), "--text", TEXT, "--text", "red"])
    visualize_gates.main([*flags, *data, "--num", "3"])
    assert [len(rows) for rows in sheets] == [2, 3]
    assert [row.text for row in sheets[0]] == [TEXT, "red"]
    assert all(row.change is not None and not row.others for rows in sheets for row in rows)
    assert capsys.readouterr().out.count(str(tmp_path / "sheet.png")) == 2
    bad(visualize_gates, [*flags, *data, "--delta"], "--sheet", "--delta", "leave one of them out")


def test_a_model_with_nothing_to_show_says_so(home, cirr_run, data, tmp_path):
    flags = ["--model-path", cirr_run, "--output", tmp_path / "maps"]
    bad(visualize_fusion, [*flags, *data, "--num", 1], "nothing to show", "--model.layer-fusion")
    bad(visualize_fusion, flags, "--image", "--dataset")
    bad(visualize_fusion, [*flags, *data, "--text", TEXT], "--image", "--dataset")
    assert not (tmp_path / "maps").exists()


def test_other_scales_join_after_their_warm_up(data, tmp_path, monkeypatch, capsys):
    read = []
    own = Backbone.vision_levels

    def recorded(backbone, pixels, layers, *, scale=1.0):
        read.append((backbone.training, scale))
        return own(backbone, pixels, layers, scale=scale)

    monkeypatch.setattr(Backbone, "vision_levels", recorded)
    run = tmp_path / "run"
    flags = [*data, *SHORT, "--num-epochs", "2", "--scale-warmup-epochs", "1", "--save-training"]
    flags += ["--cache-features", "none", "--learning-rate", "1e-3", "--output", str(run)]
    flags += "--model.visual-scales 0.5 1.0 --model.scale-fusion absi --loss-scale 0.5".split()
    flags.append("--model.adaptive-scales")
    blip_fine_tune_2.main(flags)
    trained = [scale for training, scale in read if training]
    half = trained.index(0.5)
    assert set(trained[:half]) == {1.0} and set(trained[half:]) == {0.5, 1.0}
    assert trained[half:].count(0.5) == half == trained[half:].count(1.0)  # as many steps
    gains = pd.read_csv(run / "train_metrics.csv")["visual_fusion_gain"]
    assert gains[0] == 0 < gains[1]
    assert pd.read_csv(run / "train_metrics.csv")["scales_used"].tolist() == [1, 2]
    blip_validate.main([*data, "--model-path", str(run / "checkpoints" / checkpoint.LAST)])
    printed = capsys.readouterr().out
    assert "scales needed: 0.5 by 100% of the images, 1.0 by 100%, 2.0 of 2" in printed
    assert re.search(r"\ntime of the tower for \d+ images: .* for all, -?[\d.]+ s saved", printed)
    last = checkpoint.load(run / "checkpoints" / checkpoint.LAST)
    assert not restore(last)[0].single_scale
    assert restore(replace(last, epoch=1))[0].single_scale  # as it was validated


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--model.visual-layers -1 99 --model.layer-fusion dynamic", ("99", "visual-layers")),
        ("--model.visual-layers -1 --model.layer-fusion dynamic", ("two or more",)),
        ("--model.visual-layers -1 5 --model.layer-fusion dynamic", ("twice", "visual-layers")),
        ("--loss-scale 0.5", ("--loss-scale 0.5", "--model.visual-scales")),
        ("--loss-consistency 0.5", ("--loss-consistency 0.5", "--model.visual-scales")),
        (
            "--loss-scale 1 1 1 --model.visual-scales 0.5 1.0 --model.scale-fusion mean",
            ("3 weights", "--model.visual-scales 0.5 1.0", "one a scale"),
        ),
        (
            "--model.layer-weights 0.7 0.3 --model.visual-layers -1 -4 --model.layer-fusion mean",
            ("--model.layer-weights 0.7 0.3", "fixed-sum"),
        ),
        (
            "--model.layer-weights 1 --model.visual-layers -1 -4 --model.layer-fusion fixed-sum",
            ("--model.layer-weights 1.0", "one finite number a layer"),
        ),
        ("--model.neck pyramid --model.neck-args levels=2", ("levels=2", "num_levels=")),
        ("--model.neck pyramid --model.neck-args num_levels=0", ("num_levels", "neck-args")),
        ("--model.reduced-width 0", ("--model.reduced-width 0", "1 or more")),
        ("--gradient-checkpointing", ("--gradient-checkpointing", "--train-vision")),
        ("--scales-sequential", ("--scales-sequential", "--train-vision")),
        ("--scales-sequential --train-vision", ("one scale", "--model.visual-scales")),
        ("--scale-warmup-epochs 1", ("--scale-warmup-epochs 1", "--model.visual-scales")),
        (
            "--scale-warmup-epochs 10 --model.visual-scales 0.5 1.0 --model.scale-fusion mean",
            ("--scale-warmup-epochs 10", "--num-epochs 10"),
        ),
        ("--model.adaptive-scales", ("--model.adaptive-scales", "--model.visual-scales")),
        ("--model.scale-backbones tiny", ("--model.scale-backbones tiny", "--backbone")),
        ("--loss-scale 0.5 -1", ("--loss-scale -1.0", "0 or more")),
        ("--model.visual-layers -1 -4", ("--model.layer-fusion",)),
        ("--model.visual-scales 0.5 1.5 --model.scale-fusion absi", ("1.0", "visual-scales")),
        ("--model.visual-scales 0.5 1.0", ("--model.scale-fusion",)),
    ],
)
def test_what_cannot_be_fused_is_refused_before_anything_is_written(data, tmp_path, options, words):
    run = tmp_path / "run"
    flags = [*data, *SHORT, "--output", run, *options.split()]
    message = bad(blip_fine_tune_2, flags, *words)
    assert message.endswith(".")
    assert not run.exists()


def test_one_image_is_drawn_with_what_an_index_finds(site, photos, cirr_run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "gatedcir.visualize.gate_figure.save_gate_figure",
        lambda path, rows, *, change_top: seen.extend(rows),
    )
    image, text, index = photos / "p1.png", "make it red", photos.parent / "index"
    words = ["--model-path", cirr_run, "--output", tmp_path / "maps", "--index", index]
    one = [*words, "--image", image, "--text", text]
    visualize_gates.main([str(word) for word in one])
    [row] = seen
    hits = site.engines[0].gallery.search(image, text, k=5)
    place = [hit.path.name for hit in hits].index("p1.png")
    titles = [f"retrieved {n}{', the reference' * (n == place + 1)}" for n in range(1, 6)]
    assert [picture.title for picture in row.others] == titles
    assert row.others[place].kind == "reference"
    refused = f"--index {index} is searched for one --image"
    bad(visualize_gates, [*words, "--dataset", "CIRR"], refused)
    bad(visualize_gates, [*one, "--sheet"], refused)
    assert not (tmp_path / "maps").exists()
