"""Kept runs are compared again: on other data, by kinds of texts, by epoch."""

import compare_runs
import numpy as np
import pandas as pd
import pytest
from conftest import bad

from gatedcir.ablation.again import by_epoch, evaluated, format_values, kept_runs
from gatedcir.data.triplets import Split, Triplet
from gatedcir.evaluation.ranking import Ranking
from gatedcir.evaluation.text_complexity import by_text
from gatedcir.options.config import DataConfig
from gatedcir.outputs import is_own

HEADLINE = "mean(R@5+R_s@1)"


@pytest.fixture(scope="module")
def ablation(cirr_run, tmp_path_factory):
    """Two cells of two seeds, which are all the same run."""
    folder = tmp_path_factory.mktemp("ablation")
    for cell in ("gated", "none"):
        (folder / "runs" / cell).mkdir(parents=True)
        for seed in (0, 1):
            (folder / "runs" / cell / f"seed{seed}").symlink_to(cirr_run)
    return folder


def test_queries_are_split_by_their_texts():
    texts = ["red", "red, and longer", "is red. Also very small", "it is longer by far"]
    triplets = tuple(Triplet(str(i), f"r{i}", ("t",), (text,)) for i, text in enumerate(texts))
    split = Split("all", triplets, tuple("tuvw"), {}, "", reference_removed=False)
    none = np.zeros((4, 0), dtype=np.int64)
    images = np.array([[0, 1, 2, 3], [1, 0, 2, 3], [1, 2, 0, 3], [1, 2, 3, 0]])
    nowhere, first = np.full(4, -1), np.zeros(4, dtype=np.int64)
    similarity = np.tile(np.float32([0.4, 0.3, 0.2, 0.1]), (4, 1))
    ranking = Ranking(
        split, nowhere, first, images, none, none.astype(np.float32), similarity, similarity[:, 0]
    )
    found = by_text([ranking], [texts])
    ranks = {kind: some.target_ranks.tolist() for kind, [some] in found.items()}
    assert ranks == {
        "all (4 queries)": [0, 1, 2, 3],
        "at most 4 words (2 queries)": [0, 1],
        "more than 4 words (2 queries)": [2, 3],
        "one change (2 queries)": [0, 3],
        "several changes (2 queries)": [1, 2],
    }
    # Two parts of a split share the median, and a kind without queries is left out.
    parts = [ranking.only(np.array([query])) for query in (0, 3)]
    two = by_text(parts, [texts[:1], texts[3:]])
    assert {kind: len(some) for kind, some in two.items()} == {
        "all (2 queries)": 2,
        "at most 3 words (1 queries)": 1,
        "more than 3 words (1 queries)": 1,
        "one change (2 queries)": 2,
    }


def test_the_last_states_are_evaluated(ablation, cirr_run, home):
    runs = kept_runs(ablation, "none")
    assert list(runs) == ["none", "gated"] and list(runs["gated"]) == [0, 1]
    table = pd.read_csv(cirr_run / "validation_metrics.csv")[HEADLINE]
    epochs = by_epoch(runs, HEADLINE)
    assert list(epochs) == ["epoch 1", "epoch 2"]
    assert epochs["epoch 2"]["gated"] == dict.fromkeys((0, 1), table.iloc[-1])
    one = {"none": {0: cirr_run}}
    data = DataConfig("CIRR", home / "cirr_dataset", num_workers=0)
    values, protocol = evaluated(one, data, "val", by_texts=True, device="auto")
    assert next(iter(values.values()))["none"][0] == pytest.approx(table.iloc[-1])
    assert len(values) == 5 and "CIRR val" in protocol


def test_a_table_pairs_the_seeds():
    values = {"all": {"none": {0: 10.0, 1: 20.0}, "gated": {0: 11.0, 1: 23.0, 2: 90.0}}}
    none, gated = format_values(values, "none").splitlines()[2:]
    first = [cell.strip() for cell in none.split("|")[1:6]]
    assert first == ["all", "none", "2", "15.00", "[10.00, 20.00]"]
    cells = [cell.strip() for cell in gated.split("|")[1:-1]]
    # t = 2 / (sqrt(2) / sqrt(2)) with one degree of freedom: p = 1 - 2 atan(2) / pi
    assert "| gated (from none) |" in format_values(values, "none", {"gated": "none"})
    assert cells[:3] == ["all", "gated", "3"] and cells[5:] == ["+2.00", "[+1.00, +3.00]", "0.295"]


def test_the_script_prints_what_it_writes(ablation, home, tmp_path, capsys):
    file = tmp_path / "curves.md"
    flags = ["--ablation", ablation, "--dataset", "CIRR"]
    compare_runs.main([*map(str, flags), "--by", "epoch", "--output", str(file)])
    assert file.read_text() in capsys.readouterr().out
    assert "| epoch 2 | gated |" in file.read_text() and is_own(file, "comparison")
    bad(compare_runs, [*flags, "--baseline", "nothing"], "gated, none", "--baseline")
    bad(compare_runs, ["--ablation", home, "--dataset", "CIRR"], "no runs", "--output")
