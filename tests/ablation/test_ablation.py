"""Ablations: grids, processes that fail, what is run again, and what the report says."""

import json
import math
import re
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from conftest import SHORT, bad
from PIL import Image

from gatedcir.ablation import runs as runs_module
from gatedcir.ablation import same_data
from gatedcir.ablation.cells import chosen, read_grid, some_cells
from gatedcir.ablation.folders import check_folders
from gatedcir.ablation.runs import ERRORS, FAILURE, command_of, execute, runs_of
from gatedcir.ablation.same_data import check_data
from gatedcir.ablation.tables import metrics_of, table_of_cells, table_of_runs
from gatedcir.ablation.write import check_place, write_all
from gatedcir.commands import ablate
from gatedcir.errors import UserError
from gatedcir.evaluation.statistics import compare, estimate
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse, to_dict
from gatedcir.run_folder.claim import Claim

HEADLINE = "mean(R@5+R_s@1)"
CELLS = {
    "none": {"model": {"gated-fusion": {"strategy": "none"}}},
    "gated": {"model": {"gated-fusion": {"strategy": "gated"}}},
    "fast": {"learning_rate": 1e-3, "seeds": 2},
}


def config_of(*flags):
    return parse(Config, ["--dataset", "CIRR", *SHORT, "--num-epochs", "2", *flags], description="")


def grid_of(folder, cells, *flags, baseline="none", seeds=3):
    file = folder / "grid.yaml"
    file.write_text(yaml.safe_dump({"baseline": baseline, "cells": cells}, sort_keys=False))
    return read_grid(file, config_of(*flags), seeds=seeds)


def pretend(run, score, *, epochs=2):
    """The folder of a run as training leaves it; the headline metric ends at `score`."""
    run.path.mkdir(parents=True)
    (run.path / "config.yaml").write_text(yaml.safe_dump(to_dict(run.config)))
    made_by = {"git": "abc", "devices": ["cpu"], "processes": 1, "data": {"CIRR val": "all of it"}}
    made_by |= {
        "queries": {"CIRR val": 60},
        "parameters": 2_000_000,
        "trainable_parameters": 1_234_567,
    }
    (run.path / "provenance.json").write_text(json.dumps(made_by))
    rows = [{"epoch": e, "recall_at1": 2.0 * e, HEADLINE: score * (e + 1) / 2} for e in (0, 1)]
    pd.DataFrame(rows[:epochs]).to_csv(run.path / "validation_metrics.csv", index=False)
    costs = [{"epoch": e, "triplets_per_second": 2.0, "peak_memory_gib": 1 + e} for e in (0, 1)]
    pd.DataFrame(costs[:epochs]).to_csv(run.path / "train_metrics.csv", index=False)


def with_data(run, **fingerprints):
    file = run.path / "provenance.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fingerprints": fingerprints}))


def test_some_cells_are_run_with_the_baseline(tmp_path):
    grid = grid_of(tmp_path, CELLS)
    assert some_cells(grid, ()) == grid
    assert [cell.name for cell in some_cells(grid, ["fast"]).cells] == ["none", "fast"]
    with pytest.raises(UserError, match="--cells slow is no cell of the grid; its cells are"):
        some_cells(grid, ["slow"])


def test_data_batches_and_weights_are_checked_before_the_first_run(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text("baseline: a\ncells: {a: {}, b: {seed-not: 1}}\n")
    (tmp_path / "grid.yaml").write_text("baseline: a\ncells: {a: {}, b: {batch-size: 2}}\n")
    flags = ["--grid", "grid.yaml", "--dataset", "CIRR", "--output", "out"]
    bad(ablate, flags, "there is no folder cirr_dataset")
    flags += ["--data-path", home / "cirr_dataset"]
    bad(ablate, flags, "cell a: the training split has 8 triplets, fewer than one batch of 64")
    bad(ablate, [*flags, "--batch-size", "8", "--backbone", "no.pt"], "no weights 'no.pt'")
    assert not (tmp_path / "out").exists()


def test_a_file_that_not_all_cells_saw_is_compared_between_those_that_did(tmp_path):
    cells = {"a": {}, "b": {"ema": 0.5}, "c": {"ema": 0.6}}
    runs = runs_of(grid_of(tmp_path, cells, baseline="a", seeds=1), tmp_path)
    for run in runs:
        pretend(run, 1.0)
    with_data(runs[0], train="a")
    for run, seen in zip(runs[1:], ({"x/more": "1"}, {"y/more": "2"}), strict=True):
        with_data(run, train="a", **seen)
    check_data(runs)
    with_data(runs[2], train="a", **{"x/more": "2"})
    with pytest.raises(UserError, match=rf"{runs[2].path} saw other .* {runs[1].path} \(x/more"):
        check_data(runs)


def test_cells_of_other_data_are_not_compared(tmp_path, monkeypatch):
    none, gated = runs_of(
        grid_of(tmp_path, {"none": {}, "gated": CELLS["none"]}, seeds=1), tmp_path
    )
    pretend(none, 1.0)
    with_data(none, train="a", val="b")
    there = {"train": "a", "val": "b"}
    splits = [[SimpleNamespace(triplets=range(64))], []]
    monkeypatch.setattr(same_data, "load_training", lambda *_, **__: splits)
    monkeypatch.setattr(same_data, "fingerprints", lambda _: there)
    check_data([none, gated], [gated])
    there["val"] = "c"
    with pytest.raises(UserError, match=rf"{none.path} saw other data than .* \(val differs\)"):
        check_data([none, gated], [gated])
    check_data([none, gated])  # nothing is to be trained
    pretend(gated, 2.0)
    check_data([none, gated])  # one of an earlier version
    with_data(gated, train="c", val="b")
    with pytest.raises(UserError, match=rf"{gated.path} saw other data than {none.path}"):
        write_all(tmp_path, grid_of(tmp_path, {"none": {}}), [none, gated], title="")


def test_a_figure_that_one_cell_lacks_is_compared_nowhere(tmp_path):
    """A cell without a gate has no figures of a gate, and the others keep theirs."""
    cells = {"none": {}, "gated": CELLS["none"]}
    runs = runs_of(grid_of(tmp_path, cells, seeds=2), tmp_path)
    for number, run in enumerate(runs):
        pretend(run, float(number))
        if run.cell == "gated":
            file = run.path / "validation_metrics.csv"
            pd.read_csv(file).assign(gate_auc_within=0.5).to_csv(file, index=False)
    table = table_of_cells(table_of_runs(runs), grid_of(tmp_path, cells), HEADLINE)
    found = table.set_index("cell")
    assert found["gate_auc_within"].to_dict() == pytest.approx(
        {"gated": 0.5, "none": float("nan")}, nan_ok=True
    )
    assert found["gate_auc_within_difference"].isna().all()
    assert found.loc["gated", f"{HEADLINE}_difference"] == 1


def test_a_cell_is_its_options_over_the_shared_ones(tmp_path):
    grid = grid_of(tmp_path, CELLS, "--weight-decay", "0.2", seeds=5)
    none, gated, fast = grid.cells
    assert [cell.seeds for cell in grid.cells] == [5, 5, 2]
    assert none.config.model.gated_fusion.strategy == "none"
    assert gated.config.optim.learning_rate == 1e-5 and fast.config.optim.learning_rate == 1e-3
    assert {cell.config.optim.weight_decay for cell in grid.cells} == {0.2}
    assert grid_of(tmp_path, CELLS, seeds=1).cells[2].seeds == 1
    folders = [run.path.relative_to(tmp_path).as_posix() for run in runs_of(grid, tmp_path)]
    assert folders[:4] == [f"runs/{name}" for name in ("none/seed0", "gated/seed0", "fast/seed0",
                                                       "none/seed1")]  # fmt: skip
    assert len(folders) == 12
    later = runs_of(grid_of(tmp_path, CELLS, "--seed", "7"), tmp_path)
    assert {run.seed for run in later} == {run.config.optim.seed for run in later} == {7, 8, 9}


def test_the_command_means_the_config(tmp_path):
    flags = ("--model.gated-fusion.start", "identity", "--no-save-best", "--data-path", "a b")
    [run, *_] = runs_of(grid_of(tmp_path, CELLS, *flags), tmp_path)
    command = command_of(run.config)
    assert command[:4] == [sys.executable, "-m", "gatedcir", "train"]
    given = command[4:]
    assert parse(Config, given, description="") == run.config
    assert "--weight-decay" not in given
    assert chosen(config_of())["num-epochs"] == 2 and "model" not in chosen(config_of())


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (
            {"none": {"learnig-rate": 1.0}},
            "cell none .* no option --learnig-rate; --learning-rate is",
        ),
        (
            {"none": {"model": {"gated-fusion": {"stratgy": "x"}}}},
            r"stratgy; --model\.gated-fusion\.strategy is the nearest",
        ),
        (
            {"none": {"model": {"gated-fusion": {"strategy": "loud"}}}},
            "strategy cannot be loud; choose gated, ",
        ),
        (
            {"none": {"weight-decay": 1.0, "image-size": "big", "seeds": 1}},
            "image-size cannot be big; give .* INT",
        ),
        ({"none": {"model": 3}}, "no option --model; --backbone is"),
        ({"none": {"model": {"gated-fusion": None}}}, "cell none .* group of options and is empty"),
        ({"none": {"lr": 1.0}}, "--learning-rate is the nearest"),
        ({"none": {"learning-rate": {"peak": 3}}}, r"no option --learning-rate\.peak"),
        ({"none": {"batch-size": 0}}, "cell none .*--batch-size 0 is out of range"),
        ({"none": {"validation-frequency": 0}}, "--validation-frequency 0, but cells are compared"),
        ({"none": {"from-run": "a"}}, r"--from-run is one run for all seeds; name a cell .* from:"),
        ({"none": {"seed": 3}}, "--seed is the same for all cells"),
        ({"none": {"dataset": "FashionIQ"}}, "--dataset is the same for all cells"),
        ({"none": {"data-path": "x"}}, "--data-path is the same for all cells"),
        ({"none": {"gallery": "all"}}, "--gallery is the same for all cells"),
        ({"none": {"seeds": 0}}, "seeds: 0"),
        ({"none": {"seeds": True}}, "seeds: True"),
        ({"none": None}, "cell none .* mapping"),
        ({"none": {}, "a/b": {"seed": 1}}, "letters"),
        ({"none": {}, "..": {}}, "letters"),
        ({"none": {}, "copy": {"num-epochs": 2}}, "cells none and copy .* same options"),
        ({"other": {}}, "baseline"),
        ({}, "no cells"),
    ],
)
def test_a_wrong_grid_is_refused(tmp_path, cells, words):
    with pytest.raises(UserError, match=words):
        grid_of(tmp_path, cells)


def test_a_wrong_grid_file_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs_module, "execute", lambda *_, **__: pytest.fail("something ran"))
    file = tmp_path / "grid.yaml"
    file.write_text("baseline: a\ncells: {a: {}, b: {batch-size: many}}\nextra: 1\n")
    flags = ["--dataset", "CIRR", "--grid", str(file), "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="extra"):
        ablate.main(flags)
    with pytest.raises(
        UserError, match=r"no config file nogrid\.yaml; .* examples in configs/ablations/"
    ):
        ablate.main([*flags, "--grid", "nogrid.yaml"])
    file.write_text("baseline: a\ncells: {a: {}, b: {batch-size: many}}\n")
    for more, words in (
        ([], "cell b .*--batch-size cannot be many"),
        (["--seeds", "0"], "--seeds 0"),
        (["--jobs", "0"], "--jobs 0"),
        (["--resume", "x"], "there is no run at x"),
        (["--dry-run"], "--dry-run is for one run"),
    ):
        with pytest.raises(UserError, match=words):
            ablate.main([*flags, *more])
    with pytest.raises(UserError, match="no option --batchsize; --batch-size is the nearest"):
        ablate.main([*flags, "--batchsize", "3"])
    assert not (tmp_path / "out").exists()


STAND_IN = """
import os, pathlib, signal, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
print("threads", os.environ["OMP_NUM_THREADS"])
print("half\\rwhole", file=sys.stderr, flush=True)
if "gated" in folder.parts:
    sys.exit("error: no luck\\n\\n")
if "killed" in folder.parts:
    os.kill(os.getpid(), signal.SIGKILL)
if "short" not in folder.parts:
    for table in ("train", "validation"):
        (folder / f"{table}_metrics.csv").write_text("epoch,x\\n0,1\\n1,1\\n")
"""


def test_processes_that_fail_do_not_stop_the_others(tmp_path, monkeypatch):
    trainer = tmp_path / "trainer.py"
    trainer.write_text(STAND_IN)
    monkeypatch.setattr(runs_module, "TRAINER", (sys.executable, str(trainer)))
    names = ("gated", "killed", "short", "none")
    cells = {name: {"batch-size": 8 + place} for place, name in enumerate(names)}
    runs = runs_of(grid_of(tmp_path, cells, seeds=1), tmp_path)
    (runs[3].path / "checkpoints").mkdir(parents=True)  # of a run that was stopped
    monkeypatch.setattr(runs_module.torch, "get_num_threads", lambda: 6)
    execute(runs, jobs=2)
    assert [run.failure() for run in runs] == [
        "error: no luck",
        "killed by SIGKILL after: whole",
        "ended without all of its epochs",
        None,
    ]
    assert [run.is_finished() for run in runs] == [False, False, False, True]
    assert not (runs[3].path / "checkpoints").exists()
    assert (runs[3].path / "output.log").read_text() == "threads 3\n"


def test_a_stopped_run_goes_on_from_its_own_state(tmp_path, monkeypatch):
    runs = runs_of(grid_of(tmp_path, CELLS), tmp_path)[:2]
    started = []
    monkeypatch.setattr(runs_module, "start", lambda command, *_, **__: started.append(command))
    last = runs[0].path / "checkpoints" / "last.pt"
    last.parent.mkdir(parents=True)
    last.touch()
    (runs[0].path / FAILURE).write_text("killed")
    for run in runs:
        runs_module.start_run(run, {})
    assert started[0] == [*runs_module.TRAINER, "--resume", str(runs[0].path)]
    assert started[1] == command_of(runs[1].config)
    assert last.exists() and not (runs[0].path / FAILURE).exists()


@pytest.mark.parametrize(
    ("log", "state"),
    [
        ("", "none 0"),
        ("weights: tiny\n", "none 0"),
        ("epoch 1:   4%|#  | 1/25\repoch 1:  48%|#####  | 12/25", "none 0, epoch 1:  48%"),
    ],
)
def test_a_run_shows_how_far_it_is(tmp_path, log, state):
    [run, *_] = runs_of(grid_of(tmp_path, CELLS), tmp_path)
    run.path.mkdir(parents=True)
    (run.path / "errors.log").write_text(log)
    assert runs_module._state(run) == state


def test_an_interruption_ends_what_runs(tmp_path, monkeypatch):
    trainer = tmp_path / "trainer.py"
    trainer.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(runs_module, "TRAINER", (sys.executable, str(trainer)))
    started = []
    start = runs_module.start_run

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        runs_module, "start_run", lambda *a: started.append(start(*a)) or started[-1]
    )
    monkeypatch.setattr(runs_module.time, "sleep", interrupted)
    runs = runs_of(grid_of(tmp_path, CELLS), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        execute(runs, jobs=2)
    assert [process.returncode for process in started] == [-15, -15]
    assert not any((run.path / FAILURE).exists() for run in runs)


@pytest.mark.parametrize("table", ["train_metrics.csv", "validation_metrics.csv"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "\0\u00ff" * 99,
        lambda text: text.replace(",", ";"),
        lambda text: "name,value\na,1\n",
        lambda text: text.replace("1,", "7,").replace("0,", "7,"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, table, damage):
    [run, *_] = runs_of(grid_of(tmp_path, CELLS), tmp_path)
    pretend(run, 1.0)
    assert run.is_finished()
    file = run.path / table
    file.write_text(damage(file.read_text()), encoding="latin-1")
    with pytest.raises(UserError, match=rf"{table} is damaged \(.*remove the folder to train"):
        run.is_finished()


def test_lost_rows_and_columns_are_named(tmp_path):
    [run, other, *_] = runs_of(grid_of(tmp_path, CELLS), tmp_path)
    pretend(run, 1.0)
    train = run.path / "train_metrics.csv"
    train.write_text("\n".join(train.read_text().splitlines()[:-1]))
    with pytest.raises(UserError, match=r"train_metrics\.csv has lost rows"):
        run.is_finished()
    pretend(other, 1.0)
    table = pd.read_csv(other.path / "validation_metrics.csv")
    table.drop(columns=HEADLINE).to_csv(other.path / "validation_metrics.csv", index=False)
    with pytest.raises(UserError, match="no numbers in the column mean"):
        table_of_runs([other])


def test_a_damaged_provenance_is_named(tmp_path):
    [run, *_] = runs_of(grid_of(tmp_path, CELLS), tmp_path)
    pretend(run, 1.0)
    for text in ("", "[]", '{"git": "abc"}'):
        (run.path / "provenance.json").write_text(text)
        with pytest.raises(UserError, match=r"provenance\.json is damaged"):
            table_of_runs([run])


def test_a_folder_in_use_is_not_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(runs_module, "start_run", lambda *_: pytest.fail("something ran"))
    runs = runs_of(grid_of(tmp_path, CELLS), tmp_path)
    claim = Claim(runs[1].path)
    with pytest.raises(UserError, match=f"{runs[1].path} is in use"):
        execute(runs, jobs=1)
    claim.release()
    output = tmp_path / "out"
    claim = Claim(output)
    flags = ["--dataset", "CIRR", "--grid", str(tmp_path / "grid.yaml"), "--output", str(output)]
    with pytest.raises(UserError, match=r"out is in use .*--output"):
        ablate.main(flags)
    claim.release()


@pytest.mark.parametrize(("flags", "kept"), [([], False), (["--save-best"], True)])
def test_compared_runs_keep_no_weights_unless_asked(tmp_path, flags, kept):
    found = parse(ablate.Options, ["--dataset", "CIRR", "--grid", "g", *flags], description="")
    assert found.training.run.keeps_best == kept and not found.training.run.keeps_last
    assert ("no-save-best" in " ".join(command_of(found.training))) == (not kept)


def test_only_a_run_with_all_epochs_is_finished(tmp_path):
    whole, half, failed, *_ = runs_of(grid_of(tmp_path, CELLS), tmp_path)
    assert not whole.is_finished()
    pretend(whole, 1.0)
    pretend(half, 1.0, epochs=1)
    pretend(failed, 1.0)
    (failed.path / FAILURE).write_text("the disk is full\n")
    assert [run.is_finished() for run in (whole, half, failed)] == [True, False, False]
    (whole.path / "train_metrics.csv").unlink()
    assert not whole.is_finished()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--learning-rate", "3e-5"), "learning-rate"),
        (("--num-epochs", "4"), "num-epochs"),
        (("--data-path", "elsewhere"), "data-path"),
        (("--validation-frequency", "2"), "validation-frequency"),
    ],
)
def test_changed_options_are_refused(tmp_path, flags, named):
    runs = runs_of(grid_of(tmp_path, CELLS), tmp_path)
    pretend(runs[1], 1.0)
    check_folders(runs)
    check_folders(runs_of(grid_of(tmp_path, CELLS, "--num-workers", "1"), tmp_path))
    with pytest.raises(UserError, match=re.escape(f"{runs[1].path} was run with another {named} ")):
        check_folders(runs_of(grid_of(tmp_path, CELLS, *flags), tmp_path))


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    runs = runs_of(grid_of(tmp_path, CELLS), tmp_path)
    runs[0].path.mkdir(parents=True)
    (runs[0].path / ERRORS).write_text("failed at once")
    check_folders(runs)
    (runs[0].path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is no run"):
        check_folders(runs)


def test_files_of_others_are_not_replaced_by_a_report(home, tmp_path):
    output = tmp_path / "mine"
    output.mkdir()
    grid_of(tmp_path, CELLS)
    given = ["--grid", str(tmp_path / "grid.yaml"), "--output", output, "--dataset", "CIRR"]
    given += ["--data-path", str(home / "cirr_dataset"), *SHORT]
    for name, words in (("report.md", "holds report.md and is no"), ("config.yaml", "holds a run")):
        (output / name).write_text("mine")
        bad(ablate, given, words)
        (output / name).unlink()
    assert not list(output.iterdir())
    (output / "runs").mkdir()
    (output / "report.md").touch()
    check_place(output)  # of the ablation itself


SCORES = {"none": (10.0, 12.0, 14.0), "gated": (13.0, 14.0, 18.0), "fast": (9.0, 11.0)}


@pytest.fixture
def scored(tmp_path):
    """A grid and its runs with known scores, the last one of `gated` failed."""
    grid = grid_of(tmp_path, CELLS | {"lost": {"batch-size": 8, "seeds": 1}})
    runs = runs_of(grid, tmp_path)
    for run in runs:
        if run.cell in SCORES:
            pretend(run, SCORES[run.cell][run.seed])
        else:
            run.path.mkdir(parents=True)
            (run.path / FAILURE).write_text("out | of memory\n")
    return grid, runs


def test_the_rows_of_cells_are_the_statistics_of_their_runs(scored):
    grid, runs = scored
    table = table_of_runs(runs)
    assert metrics_of(table) == ["recall_at1", HEADLINE]
    assert table.groupby("cell")[HEADLINE].apply(list)["gated"] == list(SCORES["gated"])
    cells = table_of_cells(table, grid, HEADLINE).set_index("cell")
    assert list(cells.index) == ["gated", "none", "fast"]  # by their means: 15, 12, 10
    for name, scores in SCORES.items():
        row, found = cells.loc[name], estimate(scores)
        assert (row[HEADLINE], row[f"{HEADLINE}_low"], row[f"{HEADLINE}_high"]) == (
            found.mean, found.low, found.high,
        )  # fmt: skip
        assert row["seconds_per_step"] == 2.0  # batches of 4 at 2 triplets a second
        assert (row["peak_memory_gib"], row["trainable_parameters"]) == (2.0, 1_234_567)
    found = compare(SCORES["gated"], SCORES["none"])
    assert cells.loc["gated", f"{HEADLINE}_difference"] == 3.0
    assert cells.loc["gated", f"{HEADLINE}_p"] == found.p
    assert cells.loc["gated", f"{HEADLINE}_difference_low"] == found.difference.low
    # Only seeds that both have are compared: 9 - 10 and 11 - 12, equal differences.
    assert cells.loc["fast", "pairs"] == 2
    assert cells.loc["fast", f"{HEADLINE}_difference"] == -1.0
    assert math.isnan(cells.loc["fast", f"{HEADLINE}_p"])
    assert math.isnan(cells.loc["none", f"{HEADLINE}_difference"])


def test_without_the_baseline_there_are_means_and_no_differences(scored):
    grid, runs = scored
    table = table_of_runs([run for run in runs if run.cell != "none"])
    cells = table_of_cells(table, grid, HEADLINE)
    assert list(cells["cell"]) == ["gated", "fast"] and cells["pairs"].tolist() == [0, 0]
    assert cells[f"{HEADLINE}_difference"].isna().all()


def cells_of(line):
    return [text.strip() for text in re.split(r"(?<!\\)\|", line)[1:-1]]


def check_page(folder, baseline):
    """The headline table holds what summary.csv holds, and cells.csv gives the same means."""
    page = (folder / "report.md").read_text()
    summary = pd.read_csv(folder / "summary.csv")
    runs = pd.read_csv(folder / "cells.csv")
    lines = page.split(f"## {HEADLINE}\n\n")[1].split("\n\n")[0].splitlines()[2:]
    assert len(lines) == len(summary)
    means = runs[runs["status"] == "finished"].groupby("cell")[HEADLINE].mean()
    for line, row in zip(lines, summary.to_dict("records"), strict=True):
        name, seeds, mean, interval, difference, *_ = cells_of(line)
        assert (name, int(seeds)) == (row["cell"], row["seeds"])
        assert float(mean) == pytest.approx(row[HEADLINE], abs=0.005)
        assert row[HEADLINE] == pytest.approx(means[name])
        low, high = row[f"{HEADLINE}_low"], row[f"{HEADLINE}_high"]
        assert interval == ("" if math.isnan(low) else f"[{low:.2f}, {high:.2f}]")
        assert bool(difference) == (name != baseline)
        if difference:
            assert float(difference) == pytest.approx(row[f"{HEADLINE}_difference"], abs=0.005)
    return page


def test_the_page_the_tables_and_the_charts(scored, tmp_path):
    grid, runs = scored
    file = runs[0].path / "provenance.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"recipes": ["--loss rcl", "x < y"]}))
    assert write_all(tmp_path, grid, runs, title="Ablation") == tmp_path / "report.md"
    assert "--loss rcl; x < y" in (tmp_path / "report.md").read_text()
    assert "--loss rcl; x &lt; y" in (tmp_path / "report.html").read_text(encoding="utf-8")
    page = re.sub(" +", " ", check_page(tmp_path, "none"))
    assert "8 of 9 runs finished, 1 failed." in page and "- CIRR val: all of it" in page
    assert "| lost | 0 | out \\| of memory |" in page
    assert "| gated | 3 | 15.00 | [13.00, 18.00] | +3.00 | [2.00, 4.00] | 3 | 0.0351 |" in page
    assert "| 2.000 | 2.000 to 2.000 |" in page and "60 validation queries: one is 1.67" in page
    assert "1,234,567" in page and "hold p against 0.05 / 2 = 0.025" in page
    for name in re.findall(r"!\[\w+\]\((.+)\)", page):
        picture = Image.open(tmp_path / name).convert("RGB")
        assert picture.width > 800 and len(picture.getcolors(10**6)) > 20
    assert len(list(tmp_path.glob("*.png"))) == 3
    shown = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert shown.count("data:image/svg+xml") == 3 and "<td>+3.00</td>" in shown
    assert "out | of memory" in shown and "hold p against 0.05 / 2 = 0.025" in shown


def test_an_ablation_without_any_finished_run_says_so(tmp_path):
    grid = grid_of(tmp_path, {"none": {}})
    write_all(tmp_path, grid, runs_of(grid, tmp_path), title="Ablation")
    page = (tmp_path / "report.md").read_text()
    assert "0 of 3 runs finished, 3 failed." in page and ".png" not in page


def test_the_command_goes_on_with_real_training_and_reports_a_failure(
    home, tmp_path, capsys, monkeypatch
):
    """`none` is there already, `gated` is trained, `big` cannot be: its size is no multiple."""
    cells = {"none": CELLS["none"], "gated": CELLS["gated"], "big": {"image-size": 100}}
    shared = ["--data-path", str(home / "cirr_dataset"), "--num-epochs", "1"]
    output = tmp_path / "runs" / "ablation-grid-cirr"  # where none is given
    grid = grid_of(tmp_path, cells, *shared, seeds=1)
    done, trained, _ = runs_of(grid, output)
    pretend(done, 5.0, epochs=1)
    before = (done.path / "provenance.json").stat().st_mtime_ns
    flags = ["--dataset", "CIRR", *SHORT, *shared, "--grid", str(tmp_path / "grid.yaml")]
    flags += ["--seeds", "1", "--jobs", "2"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        ablate.main(flags)
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert "3 cells, 3 runs, 1 finished before" in printed.out
    assert "failed: big, seed 0: error: --image-size 100 is no multiple" in printed.err
    assert (done.path / "provenance.json").stat().st_mtime_ns == before
    metrics = pd.read_csv(trained.path / "validation_metrics.csv").iloc[-1]
    table = pd.read_csv(output / "cells.csv").set_index("cell")
    assert table.loc["gated", "recall_at50"] == metrics["recall_at50"]
    assert table.loc["gated", "peak_memory_gib"] > 0.1
    assert table.loc["gated", "parameters"] > table.loc["gated", "trainable_parameters"] > 1e6
    page = re.sub(" +", " ", check_page(output, "none"))
    assert "| big | 0 | error: --image-size 100 is no multiple" in page
    assert f"run: {trained.path.relative_to(tmp_path)}" in (trained.path / "output.log").read_text()
