"""An ablation that was stopped and moved."""

import shutil

import pandas as pd
import yaml
from conftest import SHORT

from gatedcir.ablation import runs as runs_module
from gatedcir.commands import ablate
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
    source = str(moved / "runs" / "plain" / "seed0")
    assert started == [[*runs_module.TRAINER, "--resume", str(run), "--backbone", source]]
    for table, same in ((TRAIN, ["epoch", "loss"]), (VALIDATION, slice(None))):
        one, two = (pd.read_csv(folder / table).loc[:, same] for folder in (run, other))
        pd.testing.assert_frame_equal(one, two, check_exact=True)
