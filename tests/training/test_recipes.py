"""The recipes, by small runs: they do what they say, and say so in every report."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SHORT, bad

import blip_fine_tune_2
import blip_validate
from gatedcir.assemble.recipes import CAPTIONS
from gatedcir.commands import compare
from gatedcir.commands import report as make_report
from gatedcir.data.extra import read_extra
from gatedcir.data.noise import shuffled, shuffled_count
from gatedcir.data.triplets import Triplet
from gatedcir.errors import UserError
from gatedcir.options.config import Config, DataConfig, RunConfig
from gatedcir.run_folder import checkpoint
from gatedcir.run_folder.checkpoint import Checkpoint
from gatedcir.training.losses import CONTRASTS, weighted
from gatedcir.training.resume import check_same_data


def triplets(count):
    return [Triplet(str(i), f"r{i}", (f"t{i}",), (f"text {i}",)) for i in range(count)]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.04, 0), (0.2, 5), (0.99, 25)])
def test_noise_exchanges_the_targets_of_a_share_and_loses_none(share, count):
    clean = triplets(25)
    found = shuffled(clean, share, seed=3)
    moved = [(a, b) for a, b in zip(clean, found, strict=True) if a.targets != b.targets]
    assert len(moved) == shuffled_count(25, share) == count
    assert sorted(t.targets for t in found) == sorted(t.targets for t in clean)
    assert all(a.reference == b.reference and a.captions == b.captions for a, b in moved)
    assert found == shuffled(clean, share, seed=3)
    assert not count or found != shuffled(clean, share, seed=4)


def test_reports_name_the_loss_and_the_noise_of_a_run(home, tmp_path, capsys):
    run, report = tmp_path / "run", tmp_path / "report.json"
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    flags += ["--num-epochs", "1", "--loss", "rcl", "--noise", "0.25", "--output", str(run)]
    blip_fine_tune_2.main(flags)
    noise = "2 of 8 training triplets are shuffled on purpose (--noise 0.25)"
    assert noise in capsys.readouterr().out
    said = json.loads((run / "provenance.json").read_text())["recipes"]
    assert said[0] == "--loss rcl" and noise in said[1]
    blip_validate.main(["--model-path", str(run), "--output", str(report)])
    assert noise in capsys.readouterr().out
    assert noise in json.loads(report.read_text())["trained_on"]
    page, files = tmp_path / "page.html", [tmp_path / "c.json", tmp_path / "c.html"]
    make_report.main([str(run), "--output", str(page), "--no-evaluate"])
    assert f"--loss rcl; the targets of {noise}" in page.read_text(encoding="utf-8")
    to = ["--json", str(files[0]), "--html", str(files[1]), "--num", "0", "--num-workers", "0"]
    compare.main(["tiny", str(run), *to])
    assert noise in json.loads(files[0].read_text())["trained_on"]["b"]
    assert noise in files[1].read_text(encoding="utf-8")


@pytest.mark.parametrize("flags", [["--stage", "bank", "--from"], ["--loss", "itc", "--backbone"]])
def test_a_run_names_the_recipes_of_the_run_that_it_started_from(flags, cirr_run, home, tmp_path):
    first, run = tmp_path / "first", tmp_path / "run"
    found = checkpoint.load(cirr_run)
    made_by = {**found.provenance, "recipes": ["--loss rcl", "of older: --ema 0.9"]}
    shutil.copytree(cirr_run, first)
    checkpoint.save(first / "checkpoints" / "best.pt", replace(found, provenance=made_by))
    data = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT[2:]]
    more = ["--num-epochs", "1", "--validation-frequency", "0", "--output", str(run)]
    blip_fine_tune_2.main([*flags, str(first), *data, *more])
    said = json.loads((run / "provenance.json").read_text())["recipes"]
    assert said[-2:] == [f"of {first}: --loss rcl", f"of {first}: of older: --ema 0.9"]


CIRR_FORM = {"pairid": 7, "reference": "a", "target_hard": "b", "caption": "is red"}
FASHION_FORM = {"candidate": "b", "target": "c", "captions": ["is red", "is blue"]}


def written(folder, content, name="extra.json"):
    file = folder / name
    file.write_text(json.dumps(content))
    return file


def test_further_captions_are_read_in_both_published_forms(tmp_path):
    elsewhere = {**CIRR_FORM, "target_hard": "far"}
    found = read_extra([written(tmp_path, [CIRR_FORM, FASHION_FORM, elsewhere])], "abc")
    assert [(t.reference, t.target, t.captions) for t in found.triplets] == [
        ("a", "b", ("is red",)),
        ("b", "c", ("is red",)),
        ("b", "c", ("is blue",)),
    ]
    assert found.shares == [1, 0.5, 0.5] and (found.entries, found.left_out) == (2, 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{**CIRR_FORM, "caption": " "}], "needs a caption"),
        ([1, 2], r"entry 0 of .* must be an object, with reference, target_hard"),
        ([{"candidate": "a", "captions": ["is red"]}], "lacks the key 'target'"),
        ([{**CIRR_FORM, "reference": "far"}], "no triplet of images of the training split"),
        ({}, "must hold a list"),
    ],
)
def test_a_wrong_file_of_captions_is_refused(tmp_path, content, words):
    with pytest.raises(UserError, match=words):
        read_extra([written(tmp_path, content)], "abc")


def test_a_file_of_captions_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--extra-captions .*gone\.json is no file"):
        read_extra([tmp_path / "gone.json"], "abc")


def test_a_weight_counts_like_repetition_and_zero_like_absence():
    logits, labels = torch.randn(3, 5), torch.tensor([0, 4, 2])
    for name, contrast in CONTRASTS.items():
        rows = contrast(logits, labels, reduction="none")
        assert contrast(logits, labels).item() == pytest.approx(rows.mean().item())
        found = weighted(name, logits, labels, torch.tensor([2.0, 0.0, 1.0]))
        assert found.item() == pytest.approx(((2 * rows[0] + rows[2]) / 3).item(), rel=1e-5)


def test_further_captions_are_trained_on_and_counted(home, tmp_path, capsys):
    captions = json.loads((home / "cirr_dataset/cirr/captions/cap.rc2.train.json").read_text())
    file = written(tmp_path, captions[:4], "more.json")
    run = tmp_path / "run"
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    flags += ["--num-epochs", "1", "--extra-captions", str(file), "--extra-weight", "0.5"]
    blip_fine_tune_2.main([*flags, "--validation-frequency", "0", "--output", str(run)])
    said = "4 further triplets of 4 entries with the weight 0.5 from more.json (--extra-captions)"
    assert said in capsys.readouterr().out
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["recipes"] == [said] and f"extra captions {file}" in str(provenance)
    steps = (run / "train_steps.csv").read_text().splitlines()
    assert len(steps) == 1 + 3  # 12 triplets in batches of 4


def test_a_run_goes_on_with_the_same_further_captions_only():
    config = Config(DataConfig("CIRR"), run=RunConfig(resume=Path("run")))
    before = Checkpoint({}, {}, "", {}, {"fingerprints": {f"{CAPTIONS}x.json": "1"}}, 1, {})
    check_same_data(config, before, {f"{CAPTIONS}x.json": "1"})
    with pytest.raises(UserError, match=r"x\.json is not the file that run was trained on; put"):
        check_same_data(config, before, {f"{CAPTIONS}x.json": "2"})


@pytest.mark.parametrize("stage", ["whole", "bank"])
def test_further_captions_may_show_images_that_no_triplet_shows(
    stage, home, cirr_run, tmp_path, capsys
):
    """Of the split's images, the first four triplets show few. The others are in the file."""
    captions = json.loads((home / "cirr_dataset/cirr/captions/cap.rc2.train.json").read_text())
    elsewhere = {"reference": "nowhere", "target_hard": "nowhere", "caption": "is red"}
    file = written(tmp_path, [*captions[4:8], elsewhere], "more.json")
    start = {"whole": ["--dataset", "CIRR"], "bank": ["--stage", "bank", "--from", str(cirr_run)]}
    flags = [*start[stage], "--data-path", str(home / "cirr_dataset"), *SHORT[2:]]
    flags += ["--limit", "4", "--batch-size", "4", "--num-epochs", "1", "--extra-captions"]
    blip_fine_tune_2.main([*flags, str(file), "--output", str(tmp_path / "run")])
    out = capsys.readouterr().out
    assert "4 further triplets of 4 entries" in out and "from more.json, 1 with other images" in out
    shown = {one[key] for one in captions[:4] for key in ("reference", "target_hard")}
    assert f"CIRR train: 4 triplets of {len(shown)} images" in out  # as without the file


@pytest.mark.parametrize(
    ("caption", "words"), [("is " * 400, "400 words; shorten it"), ("is \ud800", "half of a char")]
)
def test_a_further_caption_that_is_no_sentence_is_refused(caption, words, home, tmp_path):
    captions = json.loads((home / "cirr_dataset/cirr/captions/cap.rc2.train.json").read_text())
    file = written(tmp_path, [{**captions[0], "caption": caption}], "more.json")
    flags = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset", *SHORT]
    bad(blip_fine_tune_2, [*flags, "--extra-captions", file, "--output", tmp_path / "run"], words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", ["bank", "rerank"])
def test_a_later_stage_alone_asks_for_its_run(stage):
    bad(blip_fine_tune_2, ["--stage", stage], f"--stage {stage} goes on", "--from RUN")


def test_a_weight_without_captions_is_refused():
    refusal = ["--dataset", "CIRR", "--extra-weight", "2"]
    bad(blip_fine_tune_2, refusal, "no triplets to weigh", "--extra-captions")
