"""The commands, called as users call them, on small folders in the published layouts."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pandas as pd
import pytest
import resize_images
import visualize_gates
from conftest import SHORT, bad
from PIL import Image

import blip_fine_tune_2
import blip_validate
import cirr_test_submission
from gatedcir.assemble.data import load_data
from gatedcir.data.changes import read_changes
from gatedcir.evaluation import ranking as found_by
from gatedcir.options.config import DataConfig

SRC = Path(__file__).parents[2] / "src"
PUBLISHED = (
    "--blip-model-name blip2_cir_align_prompt --backbone pretrain --num-epochs 10 "
    "--batch-size 64 --learning-rate 1e-5 --loss-align 0.4 --loss-rtc 0.4 "
    "--validation-frequency 1 --save-training --save-best --target-ratio 1.25 "
    "--transform targetpad"
).split()
CIRR_COLUMNS = [
    "epoch", "group_recall_at1", "group_recall_at2", "group_recall_at3", "recall_at1",
    "recall_at5", "recall_at10", "recall_at50", "mean(R@5+R_s@1)", "arithmetic_mean",
    "harmonic_mean", "geometric_mean",
]  # fmt: skip
LOCALISED = ["gate_auc_within", "change_auc_within"]  # where what changes is known


@pytest.mark.parametrize("dataset", ["CIRR", "FashionIQ"])
def test_the_published_command_trains_in_the_default_folders(home, monkeypatch, dataset):
    monkeypatch.chdir(home)
    shutil.rmtree("runs", ignore_errors=True)
    short = [*SHORT, "--num-epochs", "1"]  # flags given later win
    blip_fine_tune_2.main(["--dataset", dataset, *PUBLISHED, *short])
    [run] = (home / "runs").glob(f"{dataset.lower()}-blip2_cir_align_prompt-*")
    validation = pd.read_csv(run / "validation_metrics.csv")
    if dataset == "CIRR":
        assert list(validation.columns) == [*CIRR_COLUMNS, *LOCALISED]
    else:
        assert {"dress_recall_at10", "toptee_recall_at50", "average_recall"} < set(validation)
    train = pd.read_csv(run / "train_metrics.csv")
    logged = {"loss_itc", "loss_rtc", "loss_align", "gate_mean", "gate_std", "alpha"}
    assert logged | {"fusion_change"} < set(train.columns)
    assert train["peak_memory_gib"].between(0.1, 100).all()
    names = {path.name for path in run.rglob("*")}
    assert {"config.yaml", "provenance.json", "best.pt", "last.pt"} < names
    assert any(name.startswith("events.") for name in names)


def test_validation_of_a_run_repeats_its_best_epoch(home, cirr_run, tmp_path, capsys):
    out = tmp_path / "metrics.json"
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), "--num-workers", "0"]
    blip_validate.main([*flags, "--model-path", str(cirr_run), "--json", str(out)])
    table = pd.read_csv(cirr_run / "validation_metrics.csv")
    best = table.loc[table["mean(R@5+R_s@1)"].idxmax()].drop(["epoch", *LOCALISED])
    found = json.loads(out.read_text())
    assert found["metrics"] == pytest.approx(best.to_dict())
    assert found["metrics_without_gate"].keys() == found["metrics"].keys()
    printed = capsys.readouterr().out
    assert found["protocol"]["CIRR val"] in printed
    without = found["metrics_without_gate"]["mean(R@5+R_s@1)"]
    assert f"recall without the gate: {without:.2f} (mean(R@5+R_s@1))" in printed


@pytest.mark.parametrize("protocol", ["original", "val-split"])
def test_fashioniq_reports_name_the_protocol(home, cirr_run, capsys, protocol):
    flags = ["--dataset", "FashionIQ", "--data-path", str(home / "fashionIQ_dataset")]
    flags += ["--fashioniq-protocol", protocol, "--num-workers", "0"]
    blip_validate.main([*flags, "--model-path", str(cirr_run)])
    printed = capsys.readouterr().out
    assert ("VAL split" in printed) == (protocol == "val-split")
    assert "FashionIQ dress val" in printed and "average_recall" in printed


def test_submission_files_obey_the_server(home, cirr_run, tmp_path):
    flags = ["--data-path", str(home / "cirr_dataset"), "--num-workers", "0"]
    flags += ["--model-path", str(cirr_run), "--output", str(tmp_path / "out")]
    cirr_test_submission.main(flags)
    captions = home / "cirr_dataset" / "cirr" / "captions" / "cap.rc2.test1.json"
    queries = {str(entry["pairid"]): entry for entry in json.loads(captions.read_text())}
    for metric, length in (("recall", 50), ("recall_subset", 3)):
        content = json.loads((tmp_path / "out" / f"{metric}_submission.json").read_text())
        assert content.pop("version") == "rc2"
        assert content.pop("metric") == metric
        assert content.keys() == queries.keys()
        for pair, names in content.items():
            assert len(set(names)) == len(names) == length
            assert queries[pair]["reference"] not in names
            if metric == "recall_subset":
                assert set(names) < set(queries[pair]["img_set"]["members"])


@pytest.mark.parametrize("split", ["test", "val"])
def test_fashioniq_answers_are_rankings_of_the_captions_file(home, tmp_path, split):
    root = home / "fashionIQ_dataset"
    flags = ["--dataset", "FashionIQ", "--data-path", str(root), "--num-workers", "0"]
    flags += ["--model-path", "tiny", "--output", str(tmp_path / "out"), "--split", split]
    cirr_test_submission.main([*flags, "--fashioniq-categories", "shirt", "dress"])
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"{c}.{split}.pred.json" for c in ("dress", "shirt")]
    for file, category in zip(files, ("dress", "shirt"), strict=True):
        asked = json.loads((root / "captions" / f"cap.{category}.{split}.json").read_text())
        listed = json.loads((root / "image_splits" / f"split.{category}.{split}.json").read_text())
        found = json.loads(file.read_text())
        for query, answer in zip(asked, found, strict=True):
            assert answer.keys() == {"candidate", "captions", "ranking"}
            assert answer["candidate"] == query["candidate"]
            assert answer["captions"] == query["captions"]
            names = answer["ranking"]
            assert len(set(names)) == len(names) == min(50, len(listed))
            assert set(names) <= set(listed)


def test_gate_maps_of_a_dataset_and_of_one_image(home, cirr_run, tmp_path, capsys):
    flags = ["--model-path", str(cirr_run), "--output", str(tmp_path)]
    data = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset")]
    visualize_gates.main([*flags, *data, "--split", "val", "--num", "2"])
    image = next((home / "fashionIQ_dataset" / "images").iterdir())
    visualize_gates.main([*flags, "--image", str(image), "--text", "is red"])
    files = capsys.readouterr().out.split()[-3:]
    assert sorted(map(str, tmp_path.iterdir())) == sorted(files)
    assert all(Image.open(file).width > 300 for file in files)


def test_a_gate_figure_says_where_the_target_was_found(home, cirr_run, tmp_path, monkeypatch):
    drawn, rankings = [], []
    rank = found_by.rank
    monkeypatch.setattr(found_by, "rank", lambda *a: rankings.append(rank(*a)) or rankings[-1])
    monkeypatch.setattr(
        "gatedcir.visualize.gate_figure.save_gate_figure",
        lambda _, rows, **__: drawn.extend(
            [(one.title, one.kind) for one in row.others] for row in rows
        ),
    )
    flags = ["--model-path", str(cirr_run), "--output", str(tmp_path), "--num", "100"]
    data = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset")]
    visualize_gates.main([*flags, *data])
    [ranking] = rankings
    places = [rank + 1 for rank in ranking.target_ranks]
    assert len(set(places)) > 1 and len(places) == len(drawn)
    for place, (target, *retrieved) in zip(places, drawn, strict=True):
        kind = "right" if place == 1 else "near"
        assert target == (f"target, found at {place}", kind)
        assert [title for title, _ in retrieved] == [f"retrieved {n}" for n in range(1, 6)]
        assert [n for n, (_, one) in enumerate(retrieved, 1) if one == kind] == [
            n for n in range(1, 6) if n == place
        ]


def test_several_texts_over_one_image_are_rows_of_one_sheet(home, cirr_run, tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr(
        "gatedcir.visualize.gate_figure.save_gate_figure",
        lambda path, rows, change_top: sheets.append((path, rows, change_top)),
    )
    image = next((home / "fashionIQ_dataset" / "images").iterdir())
    one = ["--model-path", str(cirr_run), "--output", str(tmp_path), "--image", str(image)]
    texts = ["is red, not [blue]", "has 2 buttons and no belt"]
    visualize_gates.main([*one, "--text", texts[0], "--text", texts[1]])
    visualize_gates.main([*one, "--text", texts[0], "--change-scale", "0.5", "--format", "pdf"])
    (path, rows, top), (alone, [row], fixed) = sheets
    assert (path.suffix, alone.suffix, fixed) == (".png", ".pdf", 0.5)
    assert [row.text for row in rows] == texts
    assert top / 10 < max(float(row.change.max()) for row in rows) <= top
    assert (row.gate == rows[0].gate).all() and (row.gate != rows[1].gate).any()
    assert row.gate.shape == row.change.shape and row.gate.shape[0] < 20  # cells, not pixels


def test_texts_that_change_different_objects_are_drawn_with_their_places(
    home, cirr_run, tmp_path, monkeypatch
):
    sheets, tops = [], []
    monkeypatch.setattr(
        "gatedcir.visualize.gate_figure.save_gate_figure",
        lambda _, rows, change_top: (sheets.append(rows), tops.append(change_top)),
    )
    flags = ["--model-path", str(cirr_run), "--output", str(tmp_path)]
    data = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset")]
    visualize_gates.main([*flags, *data, "--swaps", "--num", "3"])
    swaps = read_changes(home / "cirr_dataset", "CIRR val").swaps
    texts = [tuple(row.text for row in rows) for rows in sheets]
    assert len(texts) == min(3, len(swaps)) and len(set(tops)) == 1
    for rows in sheets:
        [swap] = [s for s in swaps if [c for [c] in s.captions] == [row.text for row in rows]]
        assert [tuple(row.boxes) for row in rows] == list(swap.boxes)  # square images stay
        assert (rows[0].reference == rows[1].reference).all()
    sheets.clear()
    visualize_gates.main([*flags, *data, "--num", "1"])
    assert all(row.boxes and row.others for [row] in sheets)


def test_a_sheet_that_cannot_be_drawn_says_why(home, cirr_run, tmp_path):
    flags = ["--model-path", cirr_run, "--output", tmp_path / "maps"]
    data = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset"]
    image = next((home / "fashionIQ_dataset" / "images").iterdir())
    one = [*flags, "--image", image, "--text", "is red"]
    bad(visualize_gates, [*one, "--delta"], "one vector for all places", "contextual")
    bad(visualize_gates, [*flags, *data, "--num", 1, "--delta"], "one vector", "--delta")
    bad(visualize_gates, [*one, "--swaps"], "--swaps", "--dataset")
    bad(visualize_gates, [*one, "--change-scale", 0], "--change-scale 0", "more than 0")
    bad(visualize_gates, [*one, "dog"], "dog belongs to no option")
    plain = shutil.copytree(home / "cirr_dataset", tmp_path / "plain")
    shutil.rmtree(plain / "changes")
    bad(visualize_gates, [*flags, *data[:3], plain, "--swaps"], "CIRR val", "--swaps")
    assert not (tmp_path / "maps").exists()


def trained(folder, run, *more):
    return ["--dataset", "CIRR", "--data-path", folder, *SHORT, "--output", run, *more]


@pytest.fixture
def copy(home, tmp_path):
    """A CIRR folder to spoil, and where its run would be."""
    shutil.copytree(home / "cirr_dataset", tmp_path / "cirr")
    yield tmp_path / "cirr", tmp_path / "run"
    assert not (tmp_path / "run").exists()  # nothing half-written


def edit(file, change):
    entries = json.loads(file.read_text())
    file.write_text(json.dumps(change(entries)))


CAPTIONS = Path("cirr/captions/cap.rc2.train.json")


def test_an_empty_split_is_refused(copy):
    folder, run = copy
    edit(folder / CAPTIONS, lambda entries: [])
    bad(blip_fine_tune_2, trained(folder, run), "CIRR train", "no triplets")


def test_a_caption_of_500_words_is_refused(copy):
    folder, run = copy
    edit(folder / CAPTIONS, lambda es: [{**es[0], "caption": "red " * 500}, *es[1:]])
    bad(blip_fine_tune_2, trained(folder, run), "500 words", "CIRR train")


def test_a_gallery_of_one_image_is_refused(copy):
    folder, run = copy
    entries = json.loads((folder / "cirr/captions/cap.rc2.val.json").read_text())
    name = entries[0]["reference"]
    one = {**entries[0], "target_hard": name}
    one["img_set"] = {**one["img_set"], "members": [name]}
    edit(folder / "cirr/captions/cap.rc2.val.json", lambda _: [one])
    edit(folder / "cirr/image_splits/split.rc2.val.json", lambda images: {name: images[name]})
    bad(blip_fine_tune_2, trained(folder, run), "CIRR val", "1 image", "nothing to rank")


def test_a_fashioniq_gallery_of_one_image_is_refused(home, tmp_path):
    shutil.copytree(home / "fashionIQ_dataset", tmp_path / "fiq")
    captions = tmp_path / "fiq/captions/cap.shirt.val.json"
    edit(captions, lambda entries: [{**entries[0], "target": entries[0]["candidate"]}])
    name = json.loads(captions.read_text())[0]["candidate"]
    edit(tmp_path / "fiq/image_splits/split.shirt.val.json", lambda _: [name])
    flags = ["--dataset", "FashionIQ", "--data-path", tmp_path / "fiq", *SHORT]
    flags += ["--output", tmp_path / "run"]
    bad(blip_fine_tune_2, flags, "FashionIQ shirt val", "1 image")
    assert not (tmp_path / "run").exists()


def test_a_batch_of_one_is_refused(copy):
    bad(blip_fine_tune_2, trained(*copy, "--batch-size", 1), "batch of 1", "--batch-size")


def test_a_batch_above_the_split_is_refused(copy):
    bad(blip_fine_tune_2, trained(*copy, "--batch-size", 25), "8 triplets", "--batch-size")


def test_a_weight_of_a_term_that_is_not_there_is_refused(copy):
    bad(blip_fine_tune_2, trained(*copy, "--loss-itm", 1), "--loss-itm", "no matching term")


def test_zero_is_refused(copy):
    bad(blip_fine_tune_2, trained(*copy, "--num-epochs", 0), "--num-epochs", "1 or more")
    bad(blip_fine_tune_2, trained(*copy, "--validation-frequency", -1), "0 or more")


def test_what_is_no_number_is_refused(copy):
    bad(blip_fine_tune_2, trained(*copy, "--learning-rate", "nan"), "--learning-rate nan")
    bad(blip_fine_tune_2, trained(*copy, "--max-grad-norm", -1), "--max-grad-norm -1")
    bad(blip_fine_tune_2, trained(*copy, "--target-ratio", "nan"), "--target-ratio nan")
    bad(blip_fine_tune_2, trained(*copy, "--target-ratio", 0.5), "--target-ratio 0.5", "1 or more")


def test_a_target_outside_its_group_is_refused(copy):
    folder, run = copy

    def spoil(entries):
        entries[0]["img_set"]["members"].remove(entries[0]["target_hard"])
        return entries

    edit(folder / "cirr/captions/cap.rc2.val.json", spoil)
    bad(blip_fine_tune_2, trained(folder, run), "cap.rc2.val.json", "img_set.members")


def test_missing_images_are_named_or_skipped_aloud(copy, capsys):
    folder, run = copy
    gone = sorted((folder / "dev").iterdir())[:12]
    for file in gone:
        file.unlink()
    message = bad(blip_fine_tune_2, trained(folder, run), "12 of", "--skip-unreadable")
    assert sum(f"{file.stem}," in message for file in gone) == 10
    listed = Path(re.search(r"\S+_unreadable_images\.csv", message)[0])
    assert sum(str(file) in listed.read_text() for file in gone) == 12
    skipping = trained(folder, folder / "run", "--skip-missing", "--num-epochs", 1)
    blip_fine_tune_2.main([str(flag) for flag in skipping])
    assert "12 missing images" in capsys.readouterr().out


def test_unreadable_images_are_told_at_once_or_skipped_aloud(copy, cirr_run, capsys):
    folder, run = copy
    bad_ones = sorted((folder / "dev").iterdir())[:3]
    bad_ones[0].write_bytes(b"")
    bad_ones[1].write_text("<html>")
    bad_ones[2].unlink()
    bad_ones[2].mkdir()
    model = ["--model-path", cirr_run, "--num-workers", 0]
    data = ["--dataset", "CIRR", "--data-path", folder]
    told = "cannot be read (1 empty, 1 folder, 1 web page)"
    for command, flags in (
        (blip_fine_tune_2, trained(folder, run)),
        (blip_fine_tune_2, trained(folder, run, "--cache-features", "none")),
        (blip_validate, [*data, *model]),
        (resize_images, [*data, "--output", folder.parent / "small", "--num-workers", 0]),
        (visualize_gates, [*data, *model[:2], "--output", folder / "maps"]),
    ):
        bad(command, flags, told, "3 of", "--skip-unreadable", *(file.name for file in bad_ones))
    assert not run.exists() and not (folder.parent / "small").exists()
    json_file = folder / "metrics.json"
    skipping = [*data, *model, "--skip-unreadable", "--json", json_file]
    blip_validate.main([str(flag) for flag in skipping])
    protocol = json.loads(json_file.read_text())["protocol"]["CIRR val"]
    assert "3 unreadable images (1 empty, 1 folder, 1 web page)" in protocol
    assert protocol in capsys.readouterr().out
    small = [*data, "--output", folder.parent / "small", "--num-workers", 0, "--skip-unreadable"]
    resize_images.main([str(flag) for flag in small])
    assert (
        len(list((folder.parent / "small" / "dev").iterdir()))
        == len(list((folder / "dev").iterdir())) - 3
    )


def test_the_server_wants_all_queries(copy, cirr_run, tmp_path):
    folder, _ = copy
    captions = json.loads((folder / "cirr/captions/cap.rc2.test1.json").read_text())
    (folder / "test1" / f"{captions[0]['reference']}.png").write_bytes(b"")
    flags = ["--data-path", folder, "--model-path", cirr_run, "--output", tmp_path / "out"]
    flags += ["--num-workers", 0, "--skip-unreadable"]
    bad(cirr_test_submission, flags, "wants all queries of CIRR test1", "cannot be read")
    assert not (tmp_path / "out").exists()


def test_missing_images_of_all_splits_are_told_at_once(copy):
    folder, run = copy
    count = 0
    for split in ("train", "val"):
        [[part]] = load_data(DataConfig("CIRR", folder), split)
        count += len(part.paths)
    for part in ("train", "dev"):
        shutil.rmtree(folder / part)
    told = f"CIRR train + CIRR val: {count} of {count} images are missing"
    bad(blip_fine_tune_2, trained(folder, run), told)


def test_half_a_character_in_a_caption_is_named(copy):
    folder, run = copy

    def spoil(entries):
        entries[2]["caption"] = "is \ud83d"
        return entries

    edit(folder / "cirr/captions/cap.rc2.val.json", spoil)
    bad(blip_fine_tune_2, trained(folder, run), "of CIRR val", "half of a character")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(copy, workers):
    folder, run = copy
    name = json.loads((folder / CAPTIONS).read_text())[0]["reference"]
    [file] = (folder / "train").rglob(f"{name}.png")
    file.write_bytes(file.read_bytes()[:100])
    bad(blip_fine_tune_2, trained(folder, run, "--num-workers", workers), file.name)


def test_absent_weights_are_explained(copy, monkeypatch):
    monkeypatch.setattr("gatedcir.models.weights.locations.is_reachable", lambda repository: False)
    words = ("blip2-itm-vit-g", "hf download", "give blip2-itm-vit-g in place of pretrain")
    bad(blip_fine_tune_2, trained(*copy, "--backbone", "pretrain"), *words)
    bad(blip_fine_tune_2, trained(*copy, "--backbone", "nowhere"), "nowhere", "tiny")


def test_an_unreadable_checkpoint_is_named(home, tmp_path):
    file = tmp_path / "model.pt"
    file.write_bytes(b"not a checkpoint")
    flags = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset", "--model-path"]
    bad(blip_validate, [*flags, file], "model.pt")
    bad(blip_validate, [*flags, tmp_path / "absent"], "absent", "kept its weights")
    nowhere = [*flags, file, "--data-path", tmp_path / "nodata"]
    bad(blip_validate, nowhere, "nodata")


def test_visualising_needs_one_kind_of_input(cirr_run, tmp_path):
    flags = ["--model-path", cirr_run, "--output", tmp_path / "maps"]
    bad(visualize_gates, flags, "--image", "--dataset")
    bad(visualize_gates, [*flags, "--image", "x.png", "--text", "a " * 500], "500 words")
    one = [*flags, "--text", "red", "--image"]
    missing = bad(visualize_gates, [*one, tmp_path / "nodog.jpg"], "there is no image", "nodog.jpg")
    assert missing.endswith("check the path after --image.")
    bad(visualize_gates, [*one, tmp_path], f"--image {tmp_path} is a folder; name one image in it")
    assert not (tmp_path / "maps").exists()


def test_a_wrong_dataset_ends_the_process_with_one_message(tmp_path, monkeypatch):
    command = [sys.executable, str(SRC / "blip_fine_tune_2.py"), "--dataset", "COCO"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "CIRR" in done.stderr and "Traceback" not in done.stderr
    command[3] = "CIRR"
    monkeypatch.chdir(tmp_path)
    done = forked.call(command, {**os.environ})
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_places_that_cannot_be_written_are_named_before_anything_is_read(tmp_path):
    file = tmp_path / "file"
    file.touch()
    flags = ["--dataset", "CIRR", "--data-path", tmp_path, "--model-path", "nowhere"]
    bad(blip_validate, [*flags, "--output", tmp_path], "--output", "is a folder")
    bad(blip_validate, [*flags, "--json", file / "metrics.json"], "--output", "which is a file")
    flags = ["--model-path", "nowhere", "--output", file / "below"]
    bad(cirr_test_submission, flags, "--output", "which is a file")


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_out_of_range_is_named(copy, seed):
    bad(blip_fine_tune_2, trained(*copy, "--seed", seed), f"--seed {seed}", "less than 4294967296")
