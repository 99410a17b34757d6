"""An ablation that was stopped and moved."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import SHORT

from gatedcir.ablation import runs as runs_module
from gatedcir.ablation.moved import find_start
from gatedcir.commands import ablate
from gatedcir.run_folder import checkpoint
from gatedcir.run_folder.checkpoint import Checkpoint
from gatedcir.run_folder.folder import TRAIN, VALIDATION


def test_a_stopped_run_goes_on_where_its_start_lies_now(home, tmp_path, monkeypatch):
    """To the same losses and metrics as the run that was never stopped."""
    cells = {"plain": {"num-epochs": 1}, "longer": {"from": "plain"}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"baseline": "plain", "cells": cells}))
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    flags += ["--grid", "grid.yaml", "--seeds", "1", "--num-epochs", "2", "--save-training"]
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    monkeypatch.chdir(tmp_path)
    ablate.main([*flags, "--output", "whole"])  # a path from here, as one types it
    shutil.copytree(whole, moved)
    run, other = moved / "runs" / "longer" / "seed0", whole / "runs" / "longer" / "seed0"
    (run / "checkpoints" / "last.pt").unlink()  # the state after the first epoch stays
    for table in (TRAIN, VALIDATION):
        pd.read_csv(run / table).head(1).to_csv(run / table, index=False)
    (whole / "runs" / "plain").rename(tmp_path / "gone")
    started, start = [], runs_module.start

    def noted(command, *given, **named):
        started.append(command)
        return start(command, *given, **named)

    monkeypatch.setattr(runs_module, "start", noted)
    ablate.main([*flags, "--output", str(moved)])
    assert started == [[*runs_module.TRAINER, "--resume", str(run)]]
    for table, same in ((TRAIN, ["epoch", "loss"]), (VALIDATION, slice(None))):
        one, two = (pd.read_csv(folder / table).loc[:, same] for folder in (run, other))
        pd.testing.assert_frame_equal(one, two, check_exact=True)


@pytest.fixture
def stopped(tmp_path):
    """A run with two saved states, and its options."""
    options = {"from-run": "old/a", "backbone": "old/a", "loss": "rcl"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(options))
    (tmp_path / "checkpoints").mkdir()
    for name, epoch in (("last", 2), ("before_last", 1)):
        state = Checkpoint({"w": torch.tensor([1.5])}, {}, "", options, {}, epoch, {}, {"best": 3})
        checkpoint.save(tmp_path / "checkpoints" / f"{name}.pt", state)
    return tmp_path, options


def files_of(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_only_the_place_of_the_start_is_written_again(stopped, tmp_path):
    run, options = stopped
    before = files_of(run)
    find_start(run, Path("old/a"))
    assert files_of(run) == before
    find_start(run, tmp_path / "new" / "a")
    place = str(tmp_path / "new" / "a")
    now = {**options, "from-run": place, "backbone": place}
    assert yaml.safe_load((run / "config.yaml").read_text()) == now
    for name, epoch in (("last", 2), ("before_last", 1)):
        found = checkpoint.load(run / "checkpoints" / f"{name}.pt")
        assert found.config == now and found.weights["w"].item() == 1.5
        assert (found.epoch, found.trainer) == (epoch, {"best": 3})


def test_a_damaged_state_is_left_to_the_run_that_goes_on(stopped, tmp_path):
    run, _ = stopped
    last, before = (run / "checkpoints" / f"{name}.pt" for name in ("last", "before_last"))
    last.write_bytes(b"torn")
    find_start(run, tmp_path / "new")
    assert last.read_bytes() == b"torn"
    assert checkpoint.load(before).config["from-run"] == str(tmp_path / "new")
