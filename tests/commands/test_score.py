"""Predictions of anybody: measured as the evaluator's own, and checked for the servers."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import bad

from gatedcir.assemble.evaluator import open_evaluator
from gatedcir.benchmarks import cirr
from gatedcir.commands import evaluate, main, score, submit, train
from gatedcir.evaluation.evaluator import rank_each
from gatedcir.options.config import DataConfig

FOLDERS = {"CIRR": "cirr_dataset", "FashionIQ": "fashionIQ_dataset"}


@pytest.fixture(scope="module")
def ranked(home):
    """What the tiny model retrieves on validation, and its metrics, by data set."""
    found = {}
    for name, folder in FOLDERS.items():
        data = DataConfig(name, home / folder, num_workers=0)
        evaluator, splits = open_evaluator(Path("tiny"), data, "val")
        [rankings] = rank_each(evaluator, splits, [evaluator.encode_query])
        found[name] = rankings, evaluator.benchmark.measure(rankings)
    return found


def dump(file, content):
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def lists_of(rankings, names="names"):
    return {
        triplet.query_id: getattr(each, names)(number)
        for each in rankings
        for number, triplet in enumerate(each.split.triplets)
    }


def scored(tmp_path, home, dataset, *files):
    out = tmp_path / "out.json"
    data = ["--dataset", dataset, "--data-path", str(home / FOLDERS[dataset])]
    main.main(["score", *map(str, files), *data, "--json", str(out)])
    found = json.loads(out.read_text())
    assert found.pop("protocol")
    return found


def test_cirrs_two_files_give_the_evaluators_metrics(ranked, home, tmp_path, capsys):
    rankings, metrics = ranked["CIRR"]
    answers = tmp_path / "answers"
    for metric, names in (("recall", "names"), ("recall_subset", "group_names")):
        content = {"version": "rc2", "metric": metric, **lists_of(rankings, names)}
        dump(answers / cirr.FILES[metric], content)
    assert scored(tmp_path, home, "CIRR", answers) == metrics
    assert "gallery of" in capsys.readouterr().out
    alone = scored(tmp_path, home, "CIRR", answers / cirr.FILES["recall_subset"])
    assert alone == {k: v for k, v in metrics.items() if k.startswith("group_")}
    plain = dump(tmp_path / "plain.json", lists_of(rankings))
    alone = scored(tmp_path, home, "CIRR", plain)
    assert alone == {k: v for k, v in metrics.items() if k.startswith("recall_")}


def test_fashioniqs_files_give_the_evaluators_metrics(ranked, home, tmp_path):
    rankings, metrics = ranked["FashionIQ"]
    flags = ["--model-path", "tiny", "--dataset", "FashionIQ", "--split", "val"]
    flags += ["--data-path", str(home / FOLDERS["FashionIQ"]), "--num-workers", "0"]
    submit.main([*flags, "--output", str(tmp_path / "answers")])
    assert scored(tmp_path, home, "FashionIQ", tmp_path / "answers") == metrics
    plain = dump(tmp_path / "plain.json", lists_of(rankings))
    assert scored(tmp_path, home, "FashionIQ", plain) == metrics
    one = scored(tmp_path, home, "FashionIQ", tmp_path / "answers" / "shirt.val.pred.json")
    assert one["average_recall_at10"] == metrics["shirt_recall_at10"] and len(one) == 9


def test_a_target_that_a_short_list_lacks_is_not_found(ranked, home, tmp_path, capsys):
    rankings, _ = ranked["CIRR"]
    [each] = rankings
    lists = {query: names[:2] for query, names in lists_of(rankings).items()}
    found = scored(tmp_path, home, "CIRR", dump(tmp_path / "short.json", lists))
    assert found["recall_at50"] == pytest.approx(100 * float((each.target_ranks < 2).mean()))
    assert "a list has only 2 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lists, first: lists.pop(first), "lacks 1 of the 6 queries of CIRR val"),
        (lambda lists, first: lists.update(x=[]), "answers 1 queries that CIRR val does not have"),
        (lambda lists, first: lists[first].append(lists[first][0]), "repeats an image"),
        (lambda lists, first: lists[first].append("a.png"), "names a.png, not in its gallery"),
        (lambda lists, first: lists.update({first: "a"}), "must hold a list of image names"),
        (lambda lists, first: lists.update(version="rc1", metric="recall"), "one of recall, rec"),
    ],
)
def test_wrong_predictions_get_one_sentence(ranked, home, tmp_path, change, words):
    lists = json.loads(json.dumps(lists_of(ranked["CIRR"][0])))
    change(lists, next(iter(lists)))
    file = dump(tmp_path / "wrong.json", lists)
    data = ["--dataset", "CIRR", "--data-path", home / FOLDERS["CIRR"]]
    bad(score, [file, *data], words, "wrong.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"1": ["a"], "1": ["b"]}', "repeats the key 1"),
        ("{", "cannot be read as JSON"),
        ("[]", "must hold an object such as"),
    ],
)
def test_files_that_are_no_predictions_get_one_sentence(home, tmp_path, text, words):
    file = tmp_path / "wrong.json"
    file.write_text(text)
    data = ["--dataset", "CIRR", "--data-path", home / FOLDERS["CIRR"]]
    bad(score, [file, *data], words, "wrong.json")
    bad(score, [tmp_path / "none.json", *data], "there are no predictions", "none.json")


def test_answers_to_the_test_split_are_not_measured(home, tmp_path):
    data = ["--dataset", "CIRCO", "--data-path", str(tmp_path)]
    entry = {"id": 0, "reference_img_id": 3, "relative_caption": "is red"}
    dump(tmp_path / "val.json", [])
    dump(tmp_path / "train.json", [])
    dump(tmp_path / "test.json", [entry])
    file = dump(tmp_path / "answers.json", {"0": [f"{number:012}" for number in range(50)]})
    main.main(["submit", "--check", str(file), *data])
    dump(file, {"0": ["a.jpg"]})
    bad(submit, ["--check", file, *data], "which is no number of an image")
    dump(file, {"0": list(range(49))})
    bad(submit, ["--check", file, *data], "query 0 of CIRCO test has 49 names; the server wants 50")


def test_cirrs_files_are_checked_as_its_server_does(home, tmp_path, monkeypatch, capsys):
    data = ["--data-path", str(home / FOLDERS["CIRR"])]  # CIRR test1 is what is checked
    answers = tmp_path / "answers"
    submit.main(["--model-path", "tiny", *data, "--output", str(answers), "--num-workers", "0"])
    submit.main(["--check", str(answers), *data])
    assert "CIRR test1: 20 queries, all in order; names are in the gallery" in (
        capsys.readouterr().out
    )
    file = answers / cirr.FILES["recall"]
    good = json.loads(file.read_text())
    query = next(key for key in good if key.isdigit())
    reference = json.loads((home / "cirr_dataset/cirr/captions/cap.rc2.test1.json").read_text())
    [own] = [entry["reference"] for entry in reference if str(entry["pairid"]) == query]
    dump(file, good | {query: [own, *good[query][:49]]})
    bad(submit, ["--check", file, *data], f"query {query} of CIRR test1 ranks its own reference")
    dump(file, good | {query: good[query][:49]})
    bad(submit, ["--check", file, *data], "has 49 names; the server wants 50")
    dump(file, good)
    copy = shutil.copyfile(file, tmp_path / "copy.json")
    bad(submit, ["--check", file, copy, *data], "as another file does")
    subset = answers / cirr.FILES["recall_subset"]
    group = json.loads(subset.read_text())
    other = next(key for key in group if key.isdigit() and group[key] != group[query])
    dump(subset, group | {query: group[other]})
    bad(submit, ["--check", subset, *data], "for the groups names", "image group")


def test_a_run_on_cirr_is_evaluated_and_submitted_on_circo(home, cirr_run, tmp_path, capsys):
    root = tmp_path / "circo"
    images = root / "COCO2017_unlabeled" / "unlabeled2017"
    images.mkdir(parents=True)
    files = sorted((home / "cirr_dataset").rglob("*.png"))[:60]
    for number, file in enumerate(files):
        shutil.copyfile(file, images / f"{number:012}.jpg")
    listed = [{"id": number, "file_name": f"{number:012}.jpg"} for number in range(len(files))]
    (root / "COCO2017_unlabeled" / "annotations").mkdir()
    dump(
        root / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json",
        {"images": listed},
    )
    entries = [
        {
            "id": number,
            "reference_img_id": number,
            "target_img_id": number + 9,
            "gt_img_ids": [number + 9, number + 2],
            "relative_caption": "has two dogs",
            "semantic_aspects": ["cardinality"],
        }
        for number in range(4)
    ]
    dump(root / "annotations" / "val.json", entries)
    flags = ["--dataset", "CIRCO", "--data-path", str(root)]
    run = ["--model-path", str(cirr_run), "--num-workers", "0"]
    out = tmp_path / "found.json"
    evaluate.main([*run, *flags, "--output", str(out)])
    assert "was trained on synthetic data in CIRR's layout" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["protocol"] == {"CIRCO val": "gallery of 60 images, reference kept, 4 queries"}
    metrics = found["metrics"]
    assert metrics["recall_at50"] > 0 and "map_at10_cardinality" in metrics
    answers = tmp_path / "answers"
    submit.main([*run, *flags, "--split", "val", "--output", str(answers)])
    submit.main(["--check", str(answers), "--split", "val", *flags])
    assert "names are in the gallery" in capsys.readouterr().out
    score.main([str(answers / "submission_val.json"), *flags, "--output", str(out)])
    scored = json.loads(out.read_text())
    assert {name: scored[name] for name in metrics} == metrics
    bad(train, [*flags, "--output", tmp_path / "new"], "no split 'train', only val and test")
