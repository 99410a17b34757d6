"""Runs of which the start is trained again: they are named, and refused."""

import shutil

import pytest
from conftest import SHORT, bad
from test_ablation import grid_of, pretend

from gatedcir.ablation import runs as runs_module
from gatedcir.ablation.folders import check_folders
from gatedcir.ablation.runs import FAILURE, runs_of
from gatedcir.ablation.same_data import _check_starts
from gatedcir.commands import ablate
from gatedcir.errors import UserError

CELLS = {
    "last": {"from": "later", "ema": 0.5},
    "first": {"loss": "itc"},
    "later": {"from": "first", "loss": "rcl"},
    "alone": {"batch-size": 8},
}


def chain_of(folder, cells=CELLS, *, seeds=1):
    return runs_of(grid_of(folder, cells, baseline="first", seeds=seeds), folder)


def remove(run):
    shutil.rmtree(run.path)


def refused(runs, *, new, old):
    """The message names the runs that would be trained again, and exactly the ones to remove."""
    with pytest.raises(UserError) as caught:
        check_folders(runs)
    assert str(caught.value) == (
        f"{', '.join(str(run.path) for run in new)} would be trained again, but other runs went on "
        f"from the weights before; remove {', '.join(str(run.path) for run in old)} too, or name "
        "another --output."
    )


def test_runs_of_old_weights_are_refused(tmp_path):
    last, first, later, alone = runs = chain_of(tmp_path)
    check_folders(runs)  # nothing is there
    for run in runs:
        pretend(run, 1.0)
    check_folders(runs)
    remove(alone)
    check_folders(runs)  # nothing started from it
    remove(first)
    refused(runs, new=[first], old=[last, later])
    remove(later)
    refused(runs, new=[first, later], old=[last])
    remove(last)
    check_folders(runs)


def test_runs_that_have_only_begun_are_refused_with_the_seed_that_is_trained_again(tmp_path):
    runs = chain_of(tmp_path, seeds=2)
    first, later = ([run for run in runs if run.cell == cell] for cell in ("first", "later"))
    for run in first:
        pretend(run, 1.0)
    pretend(later[0], 1.0)
    pretend(later[1], 1.0, epochs=1)
    remove(first[1])
    refused(runs, new=first[1:], old=later[1:])
    remove(first[0])
    refused(runs, new=first, old=later)


def test_a_start_that_goes_on_from_its_own_state_keeps_its_later_runs(tmp_path):
    _, first, later, _ = runs = chain_of(tmp_path)
    pretend(first, 1.0, epochs=1)
    (first.path / FAILURE).write_text("killed")
    pretend(later, 1.0)
    refused(runs, new=[first], old=[later])  # it kept no state
    (first.path / "checkpoints").mkdir()
    (first.path / "checkpoints" / "last.pt").touch()
    check_folders(runs)


def test_the_advice_to_remove_a_folder_names_the_later_ones(tmp_path):
    last, first, later, alone = runs = chain_of(tmp_path)
    for run in (first, later, alone):
        pretend(run, 1.0)
    words = f"remove that folder, and also {later.path}, which went on from it."
    with pytest.raises(UserError) as caught:
        _check_starts([later], runs)
    assert f"later starts from {first.path}, which kept no" in str(caught.value)
    assert str(caught.value).endswith(f"to train it again, {words}")
    pretend(last, 1.0)
    changed = chain_of(tmp_path, {**CELLS, "first": {"loss": "itc", "learning-rate": 1e-3}})
    with pytest.raises(UserError) as caught:
        check_folders(changed)
    words = f"remove that folder, and also {last.path}, {later.path}, which went on from it."
    assert f"{first.path} was run with another learning-rate" in str(caught.value)
    assert str(caught.value).endswith(words)
    changed = chain_of(tmp_path, {**CELLS, "alone": {"batch-size": 9}})
    with pytest.raises(UserError, match=r"or remove that folder\.$"):
        check_folders(changed)


def test_cells_that_are_not_asked_for_count_too(tmp_path, monkeypatch):
    monkeypatch.setattr(runs_module, "start_run", lambda *_: pytest.fail("something ran"))
    flags = ["--dataset", "CIRR", *SHORT, "--num-epochs", "2", "--seeds", "1"]
    flags += ["--grid", tmp_path / "grid.yaml", "--output", tmp_path, "--cells", "first"]
    _, first, later, _ = chain_of(tmp_path)
    pretend(later, 1.0)
    bad(ablate, flags, f"{first.path} would be trained again", f"remove {later.path} too")
