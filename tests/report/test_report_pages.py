"""Which queries a page shows, and the commands that write pages."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import bad
from test_report_blocks import Page
from toy_rankings import ranked, split_of

from gatedcir.benchmarks.cirr import CIRR
from gatedcir.commands import compare, report
from gatedcir.data.triplets import Triplet
from gatedcir.outputs import is_own
from gatedcir.report.comparison import compare as compare_rankings
from gatedcir.report.findings import confused
from gatedcir.report.queries import card_of, chosen, heat
from gatedcir.report.runs import _names

GALLERY = np.eye(6, dtype=np.float32)[:, None]
NAMES = "abcdef"


def ranking_of(*orders):
    """Every query asks for image "a", and finds the images in an order of letters."""
    triplets = [
        Triplet(str(n), "f", ("a",), (f"text {n}",), ("a", "b", "f")) for n in range(len(orders))
    ]
    queries = np.zeros((len(orders), 6), np.float32)
    for row, order in zip(queries, orders, strict=True):
        for place, letter in enumerate(order):
            row[NAMES.index(letter)] = 1 - place / 10
    return ranked(split_of(triplets, NAMES, removed=False), GALLERY, queries)


def test_queries_are_chosen_by_rank_and_lead():
    ranking = ranking_of("abcde", "a", "bacde", "bcdea", "bcade", "cba")
    ranking.similarity[0, 1] = 0.99  # a small lead
    found = chosen(ranking, 1)
    assert found == {"best": [1], "near misses": [2], "worst": [3], "random": found["random"]}
    assert found["random"][0] in {0, 4, 5}
    everything = [query for some in chosen(ranking, 9).values() for query in some]
    assert sorted(everything) == list(range(6)) and chosen(ranking, 0) == {}


def test_a_card_frames_the_target_by_its_place():
    kinds = {}
    for order in ("abf", "baf", "fba"):
        card = card_of(CIRR, ranking_of(order), 0, gate=np.full((2, 2), 0.5))
        above, results = card.rows
        assert above[1].caption == "gate 0.50 to 0.50, mean 0.50"
        kinds[order] = [tile.kind for tile in (above[-1], *results[:3])]
    assert kinds == {
        "abf": ["right", "right", "other", "reference"],
        "baf": ["near", "other", "near", "reference"],
        "fba": ["near", "reference", "other", "near"],
    }
    assert card.text == "text 0" and card.note == "query 0, rank 3"
    low, high = (
        heat(np.array([[0.0, 1.0]])).getpixel((0, 0)),
        heat(np.ones((1, 1))).getpixel((0, 0)),
    )
    assert low == (68, 1, 84) and high == (253, 231, 36)  # the ends of viridis


def test_the_pairs_that_are_confused_most_come_first():
    cards = confused([ranking_of("ba", "ba", "ca", "ab", "fa")])
    assert [card.note for card in cards] == ["2 times: b, not a", "once: c, not a"]


def test_the_largest_changes_are_those_of_the_ranks_ratio():
    one = ranking_of("abcde", "bcdae", "abcde", "bacde")
    other = ranking_of("bacde", "bcdea", "bcdae", "bacde")
    found = compare_rankings(CIRR, ("A", "B"), ([one], [other]), most=2)
    assert [(change.query, change.one, change.other) for change in found.changes] == [
        (2, 1, 4),
        (0, 1, 2),
    ]
    assert found.differences["recall_at1"].wins == (2, 0)
    entry = found.content["changes"][0]
    assert entry == {"split": "CIRR val", "query_id": "2", "rank_a": 1, "rank_b": 4}


def test_names_are_as_short_as_they_differ():
    assert _names([Path("/r/a/seed0"), Path("/r/b/seed0"), Path("/r/b/seed1")]) == [
        "a/seed0",
        "b/seed0",
        "b/seed1",
    ]


def test_the_report_of_runs_with_and_without_weights(cirr_run, tmp_path, capsys):
    bare = tmp_path / "<b>bare</b>".replace("/", "-")
    shutil.copytree(cirr_run, bare, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    file = tmp_path / "report.html"
    report.main([str(cirr_run), str(bare), "--output", str(file), "--num", "1"])
    assert f"report: {file}" in capsys.readouterr().out and is_own(file, "page")
    page = Page(file.read_text(encoding="utf-8"))
    assert file.stat().st_size < 2_000_000
    titles = re.findall(r"<h2>(.*?)</h2>", file.read_text(encoding="utf-8"))
    assert titles[:3] == ["Result", "What was run", "Training"] and titles[-1] == "Time and memory"
    assert f"Queries of {cirr_run.name}" in titles and "The gate" in titles
    assert "&lt;b&gt;bare" in file.read_text(encoding="utf-8") and bare.name in page.text
    assert "no weights were kept" in page.text and "6 queries" in page.text
    assert "learning-rate" in page.text and "one half solves" in page.text
    pictures = [each for tag, each in page.found if tag == "img"]
    assert sum("jpeg" in each["src"] for each in pictures) >= 4 * 12 - 6
    assert all(each["alt"] for each in pictures)


def test_the_report_of_tables_alone_opens_no_model(cirr_run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_evaluate", lambda *_: pytest.fail("a model was opened"))
    run, file = tmp_path / "run", tmp_path / "report.html"
    shutil.copytree(cirr_run, run)
    for name in ("train_metrics.csv", "train_steps.csv"):
        (run / name).unlink()
    report.main([str(run), "--output", str(file), "--no-evaluate"])
    assert "<h2>Recalls" not in file.read_text(encoding="utf-8")
    bad(report, [tmp_path, "--output", file], "no run's folder", "config.yaml")
    bad(report, [cirr_run, cirr_run, "--output", file], "is given twice")
    bad(report, [cirr_run, "--output", file, "--num", "-1"], "--num -1")
    (run / "provenance.json").write_text("[]")
    bad(report, [run, "--output", file], "provenance.json is damaged")


def test_runs_of_different_data_sets_are_refused_before_they_are_read(cirr_run, tmp_path):
    run, file = tmp_path / "run", tmp_path / "report.html"
    shutil.copytree(cirr_run, run)
    text = (run / "config.yaml").read_text().replace("dataset: CIRR", "dataset: FashionIQ")
    (run / "config.yaml").write_text(text)
    bad(report, [cirr_run, run, "--output", file], "on CIRR and run on FashionIQ", "--dataset")
    words = [cirr_run, run, "--output", file, "--no-evaluate", "--dataset", "CIRR"]
    bad(report, words, "which have different metrics; write a report for each")
    assert not file.exists()
    other = shutil.copytree(run, tmp_path / "other")  # triplets of one's own have equal metrics
    for one in (run, other):
        own = text.replace("dataset: FashionIQ", f"dataset: {one.name}.jsonl")
        (one / "config.yaml").write_text(own)
    report.main([str(run), str(other), "--output", str(file), "--no-evaluate"])
    assert file.exists()


def test_a_run_with_markup_in_its_names_is_shown_as_text(cirr_run, tmp_path):
    nasty = "'\"><img src=x onerror=alert(1)>\n..\\<script>"
    run = shutil.copytree(cirr_run, tmp_path / nasty)
    (run / "README.md").write_text(nasty)
    made_by = json.loads((run / "provenance.json").read_text())
    made_by |= {"dataset": nasty, "data": {nasty: nasty}, "git": nasty, "device": nasty}
    (run / "provenance.json").write_text(json.dumps(made_by))
    file = tmp_path / "report.html"
    report.main([str(run), "--output", str(file), "--no-evaluate"])
    page = Page(file.read_text(encoding="utf-8"))
    assert nasty in page.text
    assert not any(name.startswith("on") for _, each in page.found for name in each)


def test_two_models_are_compared(home, cirr_run, tmp_path, capsys):
    files = ["--json", str(tmp_path / "c.json"), "--html", str(tmp_path / "c.html")]
    compare.main(["tiny", str(cirr_run), *files, "--num", "2", "--num-workers", "0"])
    printed = capsys.readouterr().out
    assert is_own(tmp_path / "c.json", "figures") and is_own(tmp_path / "c.html", "page")
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["a"] == "tiny" and found["b"] == str(cirr_run)
    for name, one in found["metrics"].items():
        assert one["difference"] == pytest.approx(one["b"] - one["a"])
        assert one["interval"][0] <= one["difference"] + 1e-9 and 0 < one["p"] <= 1
        assert name in printed
    assert len(found["changes"]) <= 2
    page = Page((tmp_path / "c.html").read_text(encoding="utf-8"))
    assert "draws the same queries" in page.text
    bad(compare, ["tiny", "tiny"], "tiny was trained on no dataset", "--dataset")
    for count in (1, 3):
        bad(compare, ["tiny"] * count, f"compare takes two models and not {count}; give A B.")


def test_a_file_that_is_gone_leaves_its_place_empty():
    ranking = ranking_of("ab")
    card = card_of(CIRR, replace(ranking), 0)
    assert {tile.source for row in card.rows for tile in row} == {""}
