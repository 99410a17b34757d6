"""Files of single queries, and the metrics that another program computes from them."""

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from toy_rankings import features_of, random_split, ranked

from gatedcir.benchmarks.circo import CIRCO
from gatedcir.benchmarks.cirr import CIRR
from gatedcir.errors import UserError
from gatedcir.evaluation.query_files import check_table, rows_of, write_table, write_trec
from gatedcir.outputs import is_own


@pytest.fixture
def ranking():
    rng = np.random.default_rng(3)
    split = random_split(rng, gallery=90, queries=25)
    return ranked(split, *features_of(rng, split))


def test_a_row_holds_what_the_ranking_says(ranking, tmp_path):
    file = tmp_path / "ranks.csv"
    write_table(file, rows_of(CIRR, [ranking]))
    table = pd.read_csv(file, keep_default_na=True)
    assert table["query_id"].tolist() == list(range(25))
    ranks = [rank + 1 if rank < 50 else None for rank in ranking.target_ranks]
    assert (
        None in ranks
        and table["rank"].astype(object).where(table["rank"].notna(), None).tolist() == ranks
    )
    assert table["group_rank"].tolist() == [rank + 1 for rank in ranking.group_ranks]
    for query, row in enumerate(table.to_dict("records")):
        assert json.loads(row["retrieved"]) == ranking.names(query)
        assert json.loads(row["targets"]) == [row["target"]]
        if ranks[query]:
            assert row["score"] == pytest.approx(ranking.scores(query)[ranks[query] - 1])
    assert 100 * (table["rank"] <= 10).mean() == pytest.approx(
        CIRR.measure([ranking])["recall_at10"]
    )


def test_parquet_holds_the_rows_as_they_are(ranking, tmp_path):
    pytest.importorskip("pyarrow")
    rows = rows_of(CIRR, [ranking])
    file = tmp_path / "ranks.parquet"
    check_table(file, "--ranks")
    write_table(file, rows)
    assert is_own(file, f"ranks{file.suffix}")
    read = pd.read_parquet(file)
    assert read.columns.tolist() == list(rows[0])
    assert str(read["rank"].dtype) == "Int64" and read["rank"].isna().any()
    for name in ("rank", "group_rank"):
        there = read[name].astype(object)
        assert there.where(there.notna(), None).tolist() == [row[name] for row in rows]
    assert read["score"].tolist() == [row["score"] for row in rows]
    for name in ("targets", "retrieved"):
        assert [list(names) for names in read[name]] == [row[name] for row in rows]


def test_another_program_finds_the_same_metrics(ranking, tmp_path):
    """The features hold many equal scores, which tools of TREC would order by name."""
    measures = pytest.importorskip("ir_measures")
    rng = np.random.default_rng(0)
    more = [
        replace(t, targets=(*t.targets, *rng.choice(ranking.names(n)[:30], 2).tolist()))
        for n, t in enumerate(ranking.split.triplets)
    ]
    more = [replace(t, targets=tuple(dict.fromkeys(t.targets))) for t in more]
    several = replace(ranking, split=replace(ranking.split, triplets=tuple(more)))
    for benchmark, answers in ((CIRR, ranking), (CIRCO, several)):
        write_trec(tmp_path / "run", [answers], tag="t")
        run = list(measures.read_trec_run(str(tmp_path / "run")))
        qrels = list(measures.read_trec_qrels(str(tmp_path / "run.qrels")))
        found = benchmark.measure([answers])
        if benchmark is CIRR:
            asked = {f"recall_at{k}": measures.Success @ k for k in (1, 5, 10, 50)}
        else:  # AP@k is cut off there, and is divided by all right images: at 50 by no more than 3
            asked = {"map_at50": measures.AP @ 50, "map_at5": measures.AP @ 5}
        values = measures.calc_aggregate(asked.values(), qrels, run)
        for name, measure in asked.items():
            assert 100 * values[measure] == pytest.approx(found[name], rel=1e-5), name
    assert is_own(tmp_path / "run", "trec") and is_own(tmp_path / "run.qrels", "qrels")
    scores = ranking.scores(0)
    assert len(set(scores)) < len(scores)


def test_files_that_cannot_be_written_are_refused(ranking, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--ranks a\.txt must end with \.csv or \.parquet"):
        check_table(tmp_path.relative_to(tmp_path) / "a.txt", "--ranks")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow: pip install 'gatedcir\[parquet\]'"):
        check_table(tmp_path / "a.parquet", "--ranks")
    with pytest.raises(UserError, match="two queries have the id 0"):
        write_trec(tmp_path / "run", [ranking, ranking], tag="t")
    split = ranking.split
    named = replace(split, gallery=tuple(name.replace("-", " ") for name in split.gallery))
    with pytest.raises(UserError, match="holds a blank, which a TREC file cannot hold"):
        write_trec(tmp_path / "run", [replace(ranking, split=named)], tag="t")
    assert not list(tmp_path.iterdir())
