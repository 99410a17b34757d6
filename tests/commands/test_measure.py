"""gatedcir gates --measure: its tables, its file, and what it refuses."""

import json

import pytest
from conftest import bad

from gatedcir.commands import gates
from gatedcir.evaluation import interventions
from gatedcir.outputs import is_own

KEYS = {
    "gate_auc", "gate_auc_within", "change_auc_within", "text_place_share", "text_swap",
    "recall_without_gate",
}  # fmt: skip


@pytest.fixture
def flags(home, cirr_run, monkeypatch):
    monkeypatch.setattr(interventions, "_RESAMPLES", 99)
    data = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset")]
    return ["--measure", "--model-path", str(cirr_run), *data]


def test_figures_are_printed_and_written(flags, tmp_path, capsys):
    file, boxes = tmp_path / "figures.json", tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"0": [[0, 0, 1, 1]], "3": [[0.5, 0, 1, 0.5], [0, 0, 0.5, 0.5]]}))
    gates.main([*flags, "--json", str(file), "--boxes", str(boxes)])
    assert is_own(file, "figures")
    found = json.loads(file.read_text())
    assert found.keys() >= KEYS
    for key in KEYS:
        assert found[key].keys() >= {"value", "interval", "count"}
    assert found["gate_in_boxes"]["count"] == 2
    assert found["area_of_boxes"]["value"] == pytest.approx(0.75)  # all of it, and half
    printed = capsys.readouterr().out
    assert "CIRR val: gallery of 27 images" in printed and "6 queries" in printed
    headline = found["headline"]
    without = found["recall_without_gate"]["value"]
    assert printed.splitlines()[-1] == f"recall without the gate: {without:.2f} ({headline})"
    for name in (*KEYS - {"recall_without_gate"}, *found["kinds"], *found["interventions"]):
        assert f"| {name} " in printed


def test_some_queries_are_enough(flags, capsys):
    gates.main([*flags, "--num", "2"])
    assert "6 queries, synthetic data, 2 of them measured" in capsys.readouterr().out


def test_what_it_refuses(flags, home, tmp_path):
    bad(gates, [*flags, "--output", tmp_path], "--measure draws nothing into --output")
    bad(gates, [*flags, "--num", "0"], "--num 0 asks for no query")
    bad(gates, [*flags, "--text", "is red"], "give --dataset NAME alone")
    bad(gates, [*flags, "--split", "test"], "CIRR test1 publishes no targets", "--split")
    bad(gates, [*flags, "--json", tmp_path], f"--json {tmp_path} is a folder")
    bad(gates, [*flags, "--boxes", tmp_path / "no.json"], "there is no file", "--boxes")
    boxes = tmp_path / "boxes.json"
    for content, words in (
        ({"900": []}, "names the query 900, which CIRR val lacks"),
        ({"0": [[0, 0, 2, 1]]}, "query 0 of"),
        ([], "must hold a dict"),
    ):
        boxes.write_text(json.dumps(content))
        bad(gates, [*flags, "--boxes", boxes], words)
    drawing = flags[1:]
    bad(gates, drawing, "--output is missing")
    more = [*drawing, "--output", tmp_path / "maps"]
    bad(gates, [*more, "--json", tmp_path / "x.json"], "--json", "is for --measure")
    bad(gates, [*more, "--boxes", tmp_path / "x.json"], "--boxes", "is for --measure")
    assert [path.name for path in tmp_path.iterdir()] == ["boxes.json"]


def test_a_model_without_a_gate_is_refused(home):
    data = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset"]
    bad(gates, ["--measure", "--model-path", "tiny", *data], "this model has no gate")
