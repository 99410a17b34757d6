"""What a run leaves behind, and what a resumed one goes on with."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog

from gatedcir.errors import UserError
from gatedcir.options.config import Config, DataConfig, OptimConfig, RunConfig
from gatedcir.options.model_config import GatedFusionConfig, ModelConfig
from gatedcir.options.parsing import from_dict, read_yaml, to_dict
from gatedcir.run_folder import folder as folder_module
from gatedcir.run_folder.claim import Claim
from gatedcir.run_folder.folder import STEPS, TRAIN, VALIDATION, RunFolder
from gatedcir.run_folder.provenance import provenance
from gatedcir.training.resume import claim_folder


@pytest.fixture
def config(tmp_path):
    return Config(
        DataConfig("FashionIQ", tmp_path / "a data", num_workers=0),
        optim=OptimConfig(seed=17, learning_rate=3e-5),
        run=RunConfig(output=tmp_path / "deep" / "run", save_best=True),
        model=ModelConfig(gated_fusion=GatedFusionConfig(strategy="additive", alpha_init=-0.25)),
    )


PROVENANCE = {**provenance(), "device": "cpu", "seed": 17}


@pytest.fixture
def folder(config):
    opened = RunFolder.create(config.run.output, to_dict(config), PROVENANCE)
    yield opened
    opened.board.close()


def rows(folder, table):
    return pd.read_csv(folder.path / table).to_dict("records")


def test_the_config_reads_back(config, folder):
    assert folder.path == config.run.output
    assert folder.checkpoints.parent == folder.path
    assert from_dict(Config, read_yaml(folder.path / "config.yaml")) == config


def test_provenance_is_complete(folder):
    found = json.loads((folder.path / "provenance.json").read_text())
    assert found["device"] == "cpu" and found["seed"] == 17
    assert re.fullmatch(r"[0-9a-f]{40}\+?|unknown", found["git"])
    assert found["versions"]["torch"] and found["python"].startswith("3.")
    assert found["versions"] == provenance()["versions"]


def test_every_epoch_is_a_row(folder):
    folder.add(TRAIN, 0, {"loss": 0.1 + 0.2, "gate_mean": 0.5})
    folder.add(TRAIN, 1, {"loss": 1 / 3, "gate_mean": 0.25})
    folder.add(VALIDATION, 1, {"recall_at1": 12.5})
    assert (folder.path / TRAIN).read_text().splitlines()[0] == "epoch,loss,gate_mean"
    assert rows(folder, TRAIN) == [
        {"epoch": 0, "loss": 0.1 + 0.2, "gate_mean": 0.5},
        {"epoch": 1, "loss": 1 / 3, "gate_mean": 0.25},
    ]
    assert rows(folder, VALIDATION) == [{"epoch": 1, "recall_at1": 12.5}]


def test_a_resumed_run_makes_its_epochs_anew(folder):
    for epoch in range(3):
        folder.add(TRAIN, epoch, {"loss": 0.1 + 0.2 * epoch})
        folder.add(VALIDATION, epoch, {"recall_at1": 100 / 7 + epoch})
    before = (folder.path / TRAIN).read_text().splitlines()
    again = RunFolder(folder.path, done=1)
    again.add(TRAIN, 1, {"loss": 9.0})
    after = (folder.path / TRAIN).read_text().splitlines()
    assert after == [*before[:2], "1,9.0"]  # the kept row is the same to the last digit
    again.add(VALIDATION, 1, {"recall_at1": 8.0})
    assert [row["epoch"] for row in rows(folder, VALIDATION)] == [0, 1]
    again.board.close()
    purged = [
        event.step
        for file in (folder.path / "tensorboard").iterdir()
        for event in EventFileLoader(str(file)).Load()
        if event.session_log.status == SessionLog.START
    ]
    assert 1 in purged


def test_kept_digits_are_exact(folder):
    values = [0.30000000000000004, 2.3e-05, 14.285714285714286, 0.06968105534789072, 1e22]
    for epoch, value in enumerate(values):
        folder.add(TRAIN, epoch, {"loss": value})
    again = RunFolder(folder.path, done=len(values))
    assert [row["loss"] for row in again.tables[TRAIN]] == values
    again.board.close()


def test_a_new_run_starts_without_rows(folder, tmp_path):
    again = RunFolder(tmp_path)
    assert again.tables == {TRAIN: [], VALIDATION: [], STEPS: []}
    again.board.close()


def test_a_folder_with_a_run_is_refused(config, folder):
    folder.add(TRAIN, 0, {"loss": 1.0})
    before = {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}
    other = replace(config, optim=OptimConfig(seed=18))
    with pytest.raises(UserError) as caught, claim_folder(other):
        pass
    assert f"--resume {folder.path}" in str(caught.value)
    assert "--output" in str(caught.value)
    assert {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()} == before


def test_a_folder_of_something_else_is_refused(config, tmp_path):
    data = replace(config, run=RunConfig(output=tmp_path / "data"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "output.log").touch()
    with claim_folder(data) as place:
        assert place.path == tmp_path / "data"
    (tmp_path / "data" / "captions").mkdir()
    with pytest.raises(
        UserError, match=r"is no run, as it holds .captions.; name .* with --output"
    ):
        claim_folder(data).__enter__()
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert names == ["captions", "output.log"]


def test_a_run_without_a_name_gets_one(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unnamed = replace(config, run=RunConfig())
    pattern = r"runs/fashioniq-blip2_cir_align_prompt-\d{8}-\d{6}"
    with claim_folder(unnamed) as place, claim_folder(unnamed) as other:
        assert re.fullmatch(pattern, place.path.as_posix())
        assert re.fullmatch(pattern + "(-2)?", other.path.as_posix()) and other.path != place.path
        RunFolder.create(place.path, to_dict(unnamed), PROVENANCE).board.close()
    assert yaml.safe_load((place.path / "config.yaml").read_text())["output"] is None
    assert not other.path.exists()


def test_a_run_that_begins_in_the_same_moment_gets_another_name(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    others = []

    def claim(path):
        if not others:  # after the look at the path
            others.append(Claim(path))
        return Claim(path)

    monkeypatch.setattr(folder_module, "Claim", claim)
    with claim_folder(replace(config, run=RunConfig())) as place:
        assert place.path.name == f"{others[0].folder.name}-2"
    others[0].release()


def test_a_crash_while_writing_leaves_the_old_table(folder, monkeypatch):
    folder.add(TRAIN, 0, {"loss": 1.0})
    before = (folder.path / TRAIN).read_bytes()

    def breaks(path, text, **settings):
        path.write_bytes(text[:3].encode())
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", breaks)
    with pytest.raises(OSError, match="no space"):
        folder.add(TRAIN, 1, {"loss": 2.0})
    assert (folder.path / TRAIN).read_bytes() == before


def test_tensorboard_has_the_same_numbers(folder):
    folder.add(TRAIN, 0, {"loss": 0.5})
    folder.add(TRAIN, 1, {"loss": 0.25})
    folder.add(VALIDATION, 1, {"recall_at1": 62.5})
    found = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    assert set(found.Tags()["scalars"]) == {"train/loss", "validation/recall_at1"}
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(0, 0.5), (1, 0.25)]
    assert [(e.step, e.value) for e in found.Scalars("validation/recall_at1")] == [(1, 62.5)]


def test_steps_are_rows_next_to_the_epochs_and_are_made_again_when_resumed(folder, monkeypatch):
    for epoch in range(2):
        folder.add(TRAIN, epoch, {"loss": 1.0})
        folder.add_steps(epoch, [{"step": 2 * epoch + n, "loss": 1 / (3 + n)} for n in range(2)])
    before = (folder.path / STEPS).read_text().splitlines()
    assert before[0] == "epoch,step,loss" and before[3] == "1,2,0.3333333333333333"
    again = RunFolder(folder.path, done=1, kept=folder.tables)
    now = time.time  # TensorBoard orders the files of a folder by the second
    monkeypatch.setattr(time, "time", lambda: now() + 1)
    again.add_steps(1, [{"step": 2, "loss": 7.0}])
    again.board.close()
    assert (folder.path / STEPS).read_text().splitlines() == [*before[:3], "1,2,7.0"]
    found = EventAccumulator(str(folder.path / "tensorboard" / "steps")).Reload()
    scalars = [(e.step, e.value) for e in found.Scalars("steps/loss")]
    assert scalars == [(0, pytest.approx(1 / 3)), (1, 0.25), (2, 7.0)]
