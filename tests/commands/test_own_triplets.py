"""A file of one's own triplets through all commands, and a published set in this form."""

import csv
import json
import shutil
from pathlib import Path

import ablate
import cache_features
import pytest
import resize_images
import visualize_gates
from conftest import SHORT, bad

import blip_fine_tune_2
import blip_validate
import cirr_test_submission
from gatedcir.commands import main
from gatedcir.run_folder import checkpoint

QUICK = [*SHORT, "--num-epochs", "1", "--batch-size", "4"]
NAMES = [f"{number:02}.png" for number in range(14)]
WORKERS = ["--num-workers", "0"]


@pytest.fixture(scope="module")
def work(home, tmp_path_factory):
    """A folder with 14 photos, and triplets.jsonl in it."""
    folder = tmp_path_factory.mktemp("own") / "photos"
    (folder / "images").mkdir(parents=True)
    for name, file in zip(
        NAMES, sorted((home / "cirr_dataset" / "dev").rglob("*.png")), strict=False
    ):
        shutil.copyfile(file, folder / "images" / name)
    images = [f"images/{name}" for name in NAMES]
    rows = [
        {
            "split": "train",
            "reference": images[number],
            "text": [f"is {number} times red", "has dots", "no sky"][: 1 + number % 3],
            "target": [images[number + 1], images[number + 3]],
            "negatives": images[number + 4],
        }
        for number in range(10)
    ]
    rows += [
        {
            "id": f"{split}/{number}",
            "split": split,
            "reference": images[number],
            "text": "no sky",
            "target": [images[number + 2], images[number + 1]],
            "candidates": [images[n] for n in (number, number + 1, number + 2, number + 3)],
        }
        for split in ("val", "test")
        for number in range(6)
    ]
    (folder / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


@pytest.fixture(autouse=True)
def here(work, monkeypatch):
    monkeypatch.chdir(work)


OWN = ["--dataset", "photos/triplets.jsonl"]


def metrics_of(capsys, *flags):
    file = Path("found.json")
    blip_validate.main([*flags, *WORKERS, "--json", str(file)])
    return json.loads(file.read_text())


def test_a_file_goes_through_all_commands(work, capsys):
    run = work / "run"
    cache_features.main([*OWN, *SHORT, "--cache-features", "features"])
    assert "13 images" in capsys.readouterr().out
    flags = [*OWN, *QUICK, "--cache-features", "features", "--save-training"]
    blip_fine_tune_2.main([*flags, "--output", str(run)])
    printed = capsys.readouterr().out
    assert "triplets train: 10 triplets of 13 images" in printed  # the last is only a negative
    assert "triplets val: gallery of 9 images, reference removed, 6 queries" in printed
    metrics = checkpoint.load(run).metrics
    assert {"recall_at10", "map_at10", "group_recall_at1"} <= metrics.keys()

    found = metrics_of(capsys, "--model-path", str(run))  # the run knows its data
    assert found["metrics"] == metrics and found["trained_on"] == "triplets"
    wider = metrics_of(capsys, "--model-path", str(run), "--gallery", "photos/images")
    assert "gallery of 14 images (photos/images)" in wider["protocol"]["triplets val"]

    visualize_gates.main(["--model-path", str(run), *OWN, "--num", "2", "--output", "maps"])
    assert sorted(path.name for path in Path("maps").iterdir()) == [
        "triplets-val-val-0.png",
        "triplets-val-val-5.png",
    ]

    flags = ["--model-path", str(run), "--split", "val", *WORKERS, "--output", "answers"]
    cirr_test_submission.main(flags)
    file = "answers/predictions.val.json"
    main.main(["submit", "--check", file, *OWN, "--split", "val"])
    main.main(["score", file, *OWN, "--json", "scored.json"])
    scored = json.loads(Path("scored.json").read_text())
    assert {name: scored[name] for name in metrics} == pytest.approx(metrics)
    assert "12 queries" not in scored["protocol"]["triplets val"]

    blip_fine_tune_2.main(["--resume", str(run), "--num-epochs", "1"])
    assert "nothing is to do" in capsys.readouterr().out
    bad(resize_images, [*OWN, "--output", "small"], "copies of photos/triplets.jsonl")


def test_a_file_moves_with_its_images(work, tmp_path, capsys):
    shutil.copytree("photos", tmp_path / "moved")
    flags = ["--model-path", "tiny", *OWN]
    before = metrics_of(capsys, *flags)
    assert metrics_of(capsys, *flags, "--data-path", str(tmp_path / "moved")) == before


def test_a_table_gives_the_same_as_lines(work, capsys):
    lines = map(json.loads, Path("photos/triplets.jsonl").read_text().splitlines())
    with Path("photos/table.csv").open("w", newline="") as file:
        keys = ["id", "split", "reference", "text", "target", "candidates", "negatives"]
        table = csv.DictWriter(file, keys)
        table.writeheader()
        for line in lines:
            joined = {k: "|".join(v) if isinstance(v, list) else v for k, v in line.items()}
            table.writerow(joined)
    flags = ["--model-path", "tiny", "--dataset"]
    one, other = (
        metrics_of(capsys, *flags, f"photos/{name}") for name in ("triplets.jsonl", "table.csv")
    )
    assert one["metrics"] == other["metrics"]


def test_a_file_is_a_data_set_of_a_grid(work):
    Path("grid.yaml").write_text("baseline: one\ncells: {one: {}}\n")
    flags = ["--grid", "grid.yaml", "--seeds", "1", "--output", "grid", *QUICK]
    ablate.main([*flags, *OWN])
    page = Path("grid/report.md").read_text()
    assert "1 of 1 runs finished" in page and "dataset: photos/triplets.jsonl" in page


def test_a_home_folder_in_the_name_is_found(work, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(work))
    flags = ["--model-path", "tiny", "--dataset", "~/photos/triplets.jsonl"]
    assert metrics_of(capsys, *flags)["protocol"].keys() == {"triplets val"}


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("photos/none.jsonl", "there is no file photos/none.jsonl"),
        ("nowhere/none.jsonl", "there is no folder nowhere"),
        ("photos", "photos has no lines of the split train"),
        ("photos.json", "cannot be photos.json; choose CIRR, FashionIQ, CIRCO or a path like"),
    ],
)
def test_a_wrong_place_gets_one_sentence(work, dataset, words):
    bad(blip_fine_tune_2, ["--dataset", dataset, *QUICK, "--output", "new"], words)
    assert not Path("new").exists()


def test_wrong_lines_are_told_before_anything_is_written(work):
    text = Path("photos/triplets.jsonl").read_text()
    Path("photos/wrong.jsonl").write_text(text + '{"reference": "a.png"}\n' * 12)
    flags = ["--dataset", "photos/wrong.jsonl", *QUICK, "--output", "new"]
    message = bad(blip_fine_tune_2, flags, "12 wrong lines: line 23 has no text", "line 32")
    assert "line 33" not in message and not Path("new").exists()


def test_missing_images_are_named(work):
    text = Path("photos/triplets.jsonl").read_text().replace("images/03.png", "images/x.png")
    Path("photos/lacking.jsonl").write_text(text)
    flags = ["--dataset", "photos/lacking.jsonl", *QUICK, "--output", "new"]
    bad(blip_fine_tune_2, flags, "images are missing", "images/x.png", "--skip-unreadable")


@pytest.mark.parametrize(
    ("dataset", "folder"), [("CIRR", "cirr_dataset"), ("FashionIQ", "fashionIQ_dataset")]
)
def test_a_converted_set_has_the_same_metrics(work, home, dataset, folder, capsys):
    published = ["--dataset", dataset, "--data-path", str(home / folder)]
    main.main(["convert", *published, "--output", f"as_own/{dataset}"])
    printed = capsys.readouterr().out
    assert f"as_own/{dataset}/val.jsonl: " in printed and "not there" not in printed
    before = metrics_of(capsys, "--model-path", "tiny", *published)["metrics"]
    found = metrics_of(capsys, "--model-path", "tiny", "--dataset", f"as_own/{dataset}")
    after = found["metrics"]
    assert after
    for name, value in after.items():
        assert before[name if name in before else f"average_{name}"] == pytest.approx(value)
    assert before.keys() - after.keys() <= {
        *("mean(R@5+R_s@1)", "arithmetic_mean", "harmonic_mean", "geometric_mean"),
        *("average_recall", *(f"average_recall_at{k}" for k in (1, 5, 10, 50))),
    }
    assert all("synthetic data" in protocol for protocol in found["protocol"].values())


def test_converting_without_images_says_so(work, home, tmp_path, capsys):
    shutil.copytree(home / "cirr_dataset" / "cirr", tmp_path / "cirr")
    flags = ["--dataset", "CIRR", "--data-path", str(tmp_path), "--splits", "val"]
    main.main(["convert", *flags, "--output", "no_images"])
    assert "images are not there yet" in capsys.readouterr().out
    assert sorted(path.name for path in Path("no_images").iterdir()) == [
        "dataset.json",
        "val.gallery.jsonl",
        "val.jsonl",
    ]
