"""Cells that start from other cells: how they are read, run in order, and what they amount to."""

import json
import sys
from dataclasses import replace

import pandas as pd
import pytest
import yaml
from conftest import SHORT, bad
from test_ablation import STAND_IN, grid_of, pretend

from gatedcir.ablation import runs as runs_module
from gatedcir.ablation.again import kept_runs, sources_of
from gatedcir.ablation.cells import some_cells
from gatedcir.ablation.folders import check_folders
from gatedcir.ablation.report import Compared, format_page
from gatedcir.ablation.runs import FAILURE, command_of, execute, runs_of
from gatedcir.ablation.same_data import _check_starts
from gatedcir.ablation.tables import recipes_in, table_of_cells, table_of_runs
from gatedcir.commands import ablate, train
from gatedcir.errors import UserError
from gatedcir.options.config import Config
from gatedcir.options.later_stage import below_flags
from gatedcir.options.parsing import parse, to_dict
from gatedcir.run_folder.provenance import recipes_before

LATER = {"num-epochs": 1, "learning-rate": 1e-3}
CELLS = {
    "bank-rerank": {"from": "bank", "stage": "rerank", **LATER},
    "longer": {"from": "plain", **LATER},
    "plain": {},
    "bank": {"from": "plain", "stage": "bank", **LATER},
    "rerank": {"from": "plain", "stage": "rerank", **LATER},
    "other": {"batch-size": 8},
}


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"a": {"from": "c"}}, "cell a .* starts from c, which is no cell of the grid; its .* a$"),
        ({"a": {"from": ["a"]}}, "which is no cell of the grid"),
        ({"a": {"from": "a"}}, "cell a .* starts from itself; leave out from"),
        ({"a": {"from": "b"}, "b": {"from": "a"}}, "cell a .* starts from itself by way of b"),
        ({"a": {"stage": "bank"}}, "cell a .* has --stage bank, .* with from:"),
        (
            {"a": {}, "b": {"from": "a", "stage": ["bank"], "backbone": "x"}},
            "cell b .*: backbone: x names other weights than from: a, which takes that cell's; ",
        ),
        (
            {"a": {"seeds": 1}, "b": {"from": "a", "seeds": 2}},
            "has seeds: 2, but a, .* has 1; give",
        ),
        ({"a": {"save": False}, "b": {"from": "a"}}, "cell b .* from a, which keeps no weights"),
        ({"a": {}, "b": {"rerank": 9}}, "has --rerank 9, but its model has no matcher"),
        ({"a": {}, "b": {"from": "a"}, "c": {"from": "a"}}, "cells b and c .* same options"),
    ],
)
def test_a_cell_that_cannot_start_is_refused(tmp_path, cells, words):
    with pytest.raises(UserError, match=words.replace("a$", r"a\.$")):
        grid_of(tmp_path, cells, baseline="a")


def test_a_run_of_ones_own_is_refused_for_all_seeds(tmp_path):
    grid_of(tmp_path, {"none": {}})
    flags = ["--grid", tmp_path / "grid.yaml", "--dataset", "CIRR", "--from", "x"]
    bad(ablate, flags, "--from is for one run; name a cell")


def test_each_run_starts_from_the_run_of_the_same_seed(tmp_path):
    flags = ("--model.visual-layers", "-2", "--no-save-best", "--seed", "3")
    grid = grid_of(
        tmp_path, CELLS | {"few": {"from": "other", "seeds": 1}}, *flags, baseline="plain"
    )
    for run in runs_of(grid, tmp_path):
        recipe, model = run.config.recipe, run.config.model
        assert model.visual_layers == (-2,)
        assert run.config.run.save_best == (run.cell in ("plain", "bank", "other"))
        if run.source is None:
            assert run.cell in ("plain", "other") and recipe.from_run is None
            continue
        start = tmp_path / "runs" / CELLS.get(run.cell, {"from": "other"})["from"]
        assert run.source.path == recipe.from_run == start / f"seed{run.seed}"
        assert run.config.backbone.backbone == str(recipe.from_run)
        assert (model.query_branch == "second") == run.cell.startswith("bank")
        assert (model.matcher == "itm") == run.cell.endswith("rerank")
        assert model == replace(
            run.source.config.model, query_branch=model.query_branch, matcher=model.matcher
        )
    fewer = grid_of(tmp_path, CELLS | {"plain": {"seeds": 2}}, baseline="other", seeds=3)
    assert [cell.seeds for cell in fewer.cells] == [2, 2, 2, 2, 2, 3]
    named = [cell.name for cell in some_cells(fewer, ["bank-rerank"]).cells]
    assert named == ["bank-rerank", "plain", "bank", "other"]


def test_a_command_names_a_default_that_wins_over_the_run(tmp_path, monkeypatch):
    fusion = {"model": {"gated-fusion": {"strategy": "none"}, "query-branch": "both"}}
    back = {"from": "first", "stage": "bank", "model": {"query-branch": "none"}}
    grid = grid_of(tmp_path, {"first": fusion, "back": back}, baseline="first", seeds=1)
    _, run = runs_of(grid, tmp_path)
    started = []
    monkeypatch.setattr(runs_module, "start", lambda command, *_, **__: started.append(command))
    runs_module.start_run(run, {})
    [words] = started
    assert words[words.index("--model.query-branch") + 1] == "none"
    assert words[words.index("--from-run") + 1] == str(run.source.path)
    assert "--model.gated-fusion.strategy" not in words and "--backbone" not in words


def test_a_stage_adds_no_part_that_a_cell_turns_off(tmp_path):
    """The bank stage would add a query branch, also to a source that has none."""
    cells = {"plain": {}, "bare": {"from": "plain", "stage": "bank"}}
    cells["bare"] |= {"model": {"query-branch": "none"}}
    _, run = runs_of(grid_of(tmp_path, cells, baseline="plain", seeds=1), tmp_path)
    command = command_of(run.config, run.source.config)
    assert command[command.index("--model.query-branch") + 1] == "none"
    run.source.path.mkdir(parents=True)
    (run.source.path / "config.yaml").write_text(yaml.safe_dump(to_dict(run.source.config)))
    words = command[len(runs_module.TRAINER) :]
    assert parse(Config, words, description="", below=below_flags(words)) == run.config


def test_seeds_that_nobody_asked_for_do_not_count(tmp_path):
    cells = {"plain": {}, "more": {"from": "plain", "seeds": 5, **LATER}}
    asked = grid_of(tmp_path, cells, baseline="plain", seeds=2)
    assert [cell.seeds for cell in asked.cells] == [2, 2]


def test_the_help_says_which_cells_are_run(capsys):
    with pytest.raises(SystemExit):
        ablate.main(["--help-all"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Run only these cells of the grid, the baseline, and the cells that these start" in said


def test_runs_wait_for_their_start_and_fail_with_it(tmp_path, monkeypatch):
    trainer = tmp_path / "trainer.py"
    trainer.write_text(STAND_IN)
    monkeypatch.setattr(runs_module, "TRAINER", (sys.executable, str(trainer)))
    cells = {"last": {"from": "gated"}, "more": {"from": "last", "num-epochs": 2, "ema": 0.5}}
    cells |= {"gated": {}, "after": {"from": "fine"}, "fine": {"batch-size": 8}}
    runs = runs_of(grid_of(tmp_path, cells, baseline="gated", seeds=1), tmp_path)
    order = []
    start = runs_module.start_run
    monkeypatch.setattr(
        runs_module, "start_run", lambda run, env: (order.append(run.cell), start(run, env))[1]
    )
    execute(runs, jobs=1)
    assert order == ["gated", "fine", "after"]
    failed = {run.cell: run.failure() for run in runs}
    assert failed["last"] == "it starts from gated, seed 0, which failed: error: no luck"
    assert failed["more"].startswith("it starts from last, seed 0, which failed: it starts from")
    assert failed["fine"] is failed["after"] is None
    (runs[2].path / FAILURE).unlink()
    for table in ("train", "validation"):  # somebody mended it
        (runs[2].path / f"{table}_metrics.csv").write_text("epoch,x\n0,1\n1,1\n")
    execute(runs[:2], jobs=2)
    assert order[3:] == ["last", "more"] and all(run.is_finished() for run in runs)


def test_a_finished_start_needs_its_weights_and_may_be_moved(tmp_path):
    cells = {"plain": {}, "longer": {"from": "plain"}}
    plain, longer = runs_of(grid_of(tmp_path, cells, baseline="plain", seeds=1), tmp_path / "a")
    pretend(plain, 1.0)
    with pytest.raises(UserError, match=f"cell longer starts from {plain.path}, which kept no wei"):
        _check_starts([longer], [plain, longer])
    (plain.path / "checkpoints").mkdir()
    (plain.path / "checkpoints" / "best.pt").touch()
    _check_starts([longer], [plain, longer])
    pretend(longer, 2.0)
    (tmp_path / "a").rename(tmp_path / "b")
    check_folders(runs_of(grid_of(tmp_path, cells, baseline="plain", seeds=1), tmp_path / "b"))
    cells["longer"]["from"], cells["other"] = "other", {"ema": 0.5}
    with pytest.raises(UserError, match="longer/seed0 was run with another from than"):
        check_folders(runs_of(grid_of(tmp_path, cells, baseline="plain"), tmp_path / "b"))


def test_the_report_names_the_start(tmp_path):
    cells = {"plain": {}, "longer": {"from": "plain"}}
    grid = grid_of(tmp_path, cells, baseline="plain", seeds=1)
    runs = runs_of(grid, tmp_path)
    for place, run in enumerate(runs):
        pretend(run, float(place))
    table = table_of_runs(runs)
    metric = "mean(R@5+R_s@1)"
    rows = table_of_cells(table, grid, metric)
    assert table["from"].tolist() == ["", "plain"] and rows["from"].tolist() == ["plain", ""]
    found = Compared(table, rows, grid, metric, {"recall_at1": "R@1"}, {}, None)
    page = " ".join(format_page(found, title="", pictures=[]).split())
    assert "| starts from |" in page and "| plain | | longer" not in page
    assert "longer: from: plain" in page and "goes on with that cell's best weights" in page
    assert sources_of(kept_runs(tmp_path, "plain")) == {"longer": "plain"}


@pytest.mark.parametrize("before", ["out", "a: b (of 2)/c"])
def test_the_recipes_of_a_chain_are_named_by_cell_and_once(tmp_path, before):
    """Also where the ablation was moved since."""
    cells = {"rcl": {"loss": "rcl"}, "bank": {"from": "rcl", "stage": "bank"}}
    cells |= {"rerank": {"from": "bank", "stage": "rerank"}, "longer": {"from": "rerank"}}

    def lines_of(run):
        if run.source is None:
            return [f"--loss {run.config.recipe.loss}"]
        stage, folder = run.config.recipe.stage, f"{before}/runs/{run.source.cell}/seed{run.seed}"
        own = [f"--stage {stage}, from {folder}"] * (stage != "whole")
        return [*own, *recipes_before(folder, lines_of(run.source))]

    runs = runs_of(grid_of(tmp_path, cells, baseline="rcl", seeds=2), tmp_path / "new")
    for run in runs:
        pretend(run, 1.0)
        file = run.path / "provenance.json"
        made_by = json.loads(file.read_text()) | {"recipes": lines_of(run)}
        file.write_text(json.dumps(made_by))
    bank, rerank = "--stage bank, from rcl", "--stage rerank, from bank"
    assert recipes_in(runs) == {
        "rcl": ["--loss rcl"],
        "bank": [bank, "of rcl: --loss rcl"],
        "rerank": [rerank, f"of bank: {bank}", "of rcl: --loss rcl"],
        "longer": [f"of rerank: {rerank}", f"of bank: {bank}", "of rcl: --loss rcl"],
    }


def test_cells_equal_the_commands_that_one_types(home, tmp_path):
    """The same losses and metrics, digit for digit."""
    data = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset")]
    rest = ["--num-epochs", "1", "--learning-rate", "1e-3", "--no-save-training"]
    fusion = ["--model.gated-fusion.strategy", "none"]
    config = tmp_path / "config.yaml"
    config.write_text("related: 2\nbackbone: tiny\nmodel: {visual-layers: [-2]}\n")
    output, typed = tmp_path / "grid", tmp_path / "typed"
    cells = {n: c for n, c in CELLS.items() if n != "other"}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"baseline": "plain", "cells": cells}))
    shared = ["--config", str(config), *data, *SHORT, *rest, *fusion]
    given = ["--grid", str(tmp_path / "grid.yaml"), "--seeds", "1", "--output", str(output)]
    ablate.main([*given, *shared])
    later = [*SHORT[2:], "--related", "2", *rest]  # all but --backbone
    for name, words in (
        ("plain", shared),
        ("longer", [*shared, "--backbone", str(typed / "plain")]),
        ("bank", ["--stage", "bank", "--from", str(typed / "plain"), *later]),
        ("rerank", ["--stage", "rerank", "--from", str(typed / "plain"), *later]),
        ("bank-rerank", ["--stage", "rerank", "--from", str(typed / "bank"), *later]),
    ):
        train.main([*words, "--output", str(typed / name)])
        for file, columns in (("train", ["loss"]), ("validation", None)):
            tables = [
                pd.read_csv(folder / f"{file}_metrics.csv")
                for folder in (typed / name, output / "runs" / name / "seed0")
            ]
            one, other = (table[columns or list(table.columns)] for table in tables)
            pd.testing.assert_frame_equal(one, other, check_exact=True)
    losses = [
        pd.read_csv(typed / n / "train_metrics.csv")["loss"][0] for n in CELLS if n != "other"
    ]
    assert len(set(losses)) == 5
