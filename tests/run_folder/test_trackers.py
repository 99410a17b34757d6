"""Trackers get the figures of steps and epochs in the order of steps, and never end a training."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gatedcir.errors import UserError
from gatedcir.run_folder import trackers as trackers_module
from gatedcir.run_folder.folder import TRAIN, VALIDATION, RunFolder
from gatedcir.run_folder.trackers import Trackers, check_trackers

CONFIG = {"seed": 1, "model": {"visual-layers": [-1, -4]}}
IMAGE = np.zeros((2, 4, 3), np.uint8)


class Calls(list):
    """What a fake package was asked for: (name, values, step)."""

    def logged(self):
        return [(sorted(values), step) for name, values, step in self if name == "log"]


def fake_wandb(calls):
    module = ModuleType("wandb")
    run = SimpleNamespace(
        id="7",
        url=None,
        dir="offline-run",
        log=lambda values, step=None: calls.append(("log", values, step)),
        finish=lambda: calls.append(("finish", {}, None)),
    )
    module.init = lambda **given: calls.append(("init", given, None)) or run
    module.config = SimpleNamespace(update=lambda v, **_: calls.append(("config", v, None)))
    module.Image = lambda image: image.shape
    return module


def fake_mlflow(calls):
    module = ModuleType("mlflow")
    run = SimpleNamespace(info=SimpleNamespace(run_id="7", artifact_uri="file:///here"))
    limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
    module.utils = SimpleNamespace(validation=limits)
    module.set_tracking_uri = lambda uri: calls.append(("kept", {}, uri))
    module.search_experiments = lambda **_: []
    module.create_experiment = lambda **_: "3"
    module.start_run = lambda **given: calls.append(("init", given, None)) or run
    module.log_params = lambda values: calls.append(("config", values, None))
    module.log_metrics = lambda values, step=None: calls.append(("log", values, step))
    module.log_image = lambda image, name: calls.append(("log", {name: image}, None))
    module.end_run = lambda: calls.append(("finish", {}, None))
    return module


def log_two_epochs(folder, metric="recall_at1", picture="1"):
    for epoch in (0, 1):
        folder.add(TRAIN, epoch, {"loss": 1.0})
        folder.add_steps(epoch, [{"step": 2 * epoch + n, "loss": 0.5, "rate": 1.0} for n in (0, 1)])
        folder.add(VALIDATION, epoch, {metric: 50.0})
        folder.add_pictures(epoch, {f"gate/{picture}": IMAGE})
    folder.close()


@pytest.mark.parametrize(("name", "fake"), [("wandb", fake_wandb), ("mlflow", fake_mlflow)])
def test_a_tracker_gets_steps_and_epochs_in_order(name, fake, tmp_path, monkeypatch, capsys):
    calls = Calls()
    monkeypatch.setitem(sys.modules, name, fake(calls))
    folder = RunFolder(tmp_path / "run", trackers=(name,), config=CONFIG)
    log_two_epochs(folder)
    steps = ["steps/loss", "steps/rate"]
    rows = [entry for entry in calls.logged() if "gate" not in entry[0][0]]
    assert rows == [
        (steps, 0),
        (steps, 1),
        (["epoch", "train/loss"], 1),
        (["epoch", "validation/recall_at1"], 1),
        (steps, 2),
        (steps, 3),
        (["epoch", "train/loss"], 3),
        (["epoch", "validation/recall_at1"], 3),
    ]
    assert len([1 for entry in calls.logged() if "gate/1" in entry[0][0]]) == 2
    assert ("config", {"seed": 1, "model.visual-layers": "[-1, -4]"}, None) in calls
    assert calls[-1][0] == "finish"
    kept = json.loads((tmp_path / "run" / "trackers.json").read_text())[name]
    assert (
        kept["id"] == "7" and f"{name} shows this run: {kept['address']}" in capsys.readouterr().out
    )
    assert not (tmp_path / "run" / "tensorboard").exists()  # it was not asked for
    calls.clear()
    RunFolder(tmp_path / "run", done=1, trackers=(name,), config=CONFIG).close()
    [(_, given, _)] = [call for call in calls if call[0] == "init"]
    assert "7" in (given.get("id"), given.get("run_id"))  # it goes on where it was


def test_a_tracker_that_fails_is_left_out(tmp_path, monkeypatch, capsys):
    calls = Calls()
    module = fake_wandb(calls)
    monkeypatch.setitem(sys.modules, "wandb", module)
    folder = RunFolder(tmp_path, trackers=("wandb", "tensorboard"), config=CONFIG)
    folder.trackers.open["wandb"].run.log = lambda *_, **__: 1 / 0
    log_two_epochs(folder)
    printed = capsys.readouterr().out
    assert printed.count("wandb gets no more figures (division by zero); the training goes on") == 1
    assert [row["epoch"] for row in folder.tables[VALIDATION]] == [0, 1]
    module.init = lambda **_: 1 / 0
    assert Trackers(tmp_path, ["wandb"], {}, step=0).open == {}


def test_a_tracker_without_its_package_is_refused(monkeypatch):
    monkeypatch.setattr(trackers_module, "find_spec", lambda name: None)
    check_trackers(["tensorboard"])
    with pytest.raises(UserError, match="--tracker wandb needs its package: pip install wandb"):
        check_trackers(["tensorboard", "wandb"])


def test_pictures_of_the_gate_are_in_the_run(cirr_run):
    board = EventAccumulator(str(cirr_run / "tensorboard"))
    board.Reload()
    tags = board.Tags()["images"]
    assert len(tags) == 3 and all(tag.startswith("gate/") for tag in tags)
    [one, _] = board.Images(tags[0])  # two epochs
    assert (one.width, one.height) == (288, 144)


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A working directory and a home where nothing is. The test leaves no variable behind."""
    for name in ("here", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "here" / "run"


def address(run, name):
    """Where a tracker shows the run. Nothing was written next to the run's folder."""
    assert [file.name for file in run.parent.iterdir()] == ["run"]
    return json.loads((run / "trackers.json").read_text())[name]


def test_trackio_keeps_a_run(alone, monkeypatch):
    trackio = pytest.importorskip("trackio")
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", alone.parent.parent / "trackio")
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", alone.parent.parent / "trackio")
    log_two_epochs(RunFolder(alone, trackers=("trackio",), config=CONFIG))
    kept = address(alone, "trackio")
    assert kept["address"] == "`trackio show --project gatedcir`"
    logs = trackio.SQLiteStorage.get_logs("gatedcir", kept["name"])
    assert [log["step"] for log in logs if "steps/loss" in log] == [0, 1, 2, 3]
    recalls = [log["validation/recall_at1"] for log in logs if "validation/recall_at1" in log]
    assert recalls == [50, 50]
    assert sum("gate/1" in log for log in logs) == 2


def test_mlflow_keeps_a_run_in_its_folder(alone, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")  # so that what is set below is taken back
        monkeypatch.delenv(name)
    from mlflow import MlflowClient

    folder = RunFolder(alone, trackers=("mlflow",), config=CONFIG)
    log_two_epochs(folder, "mean(R@5+R_s@1)", "../1?")  # signs that its names may not have
    kept = address(alone, "mlflow")
    assert kept["address"].startswith((alone / "mlruns").as_uri())
    client = MlflowClient((alone / "mlruns").as_uri())
    steps = client.get_metric_history(kept["id"], "steps/loss")
    assert [(one.step, one.value) for one in steps] == [(n, 0.5) for n in range(4)]
    recalls = client.get_metric_history(kept["id"], "validation/mean_R_5_R_s_1_")
    assert [(one.step, one.value) for one in recalls] == [(1, 50), (3, 50)]
    run = client.get_run(kept["id"])
    assert run.data.params["model.visual-layers"] == "[-1, -4]"
    assert run.info.status == "FINISHED"
    pictures = [one.path for one in client.list_artifacts(kept["id"], "gate/_")]
    assert pictures == ["gate/_/1_-1.png", "gate/_/1_-3.png"]


def test_wandb_keeps_a_run_in_its_folder_offline(alone, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for part in ("STATS", "META", "MACHINE_INFO"):  # of the machine, which take seconds
        monkeypatch.setenv(f"WANDB_X_DISABLE_{part}", "true")
    log_two_epochs(RunFolder(alone, trackers=("wandb",), config=CONFIG))
    wandb.teardown()
    files = alone.parent / address(alone, "wandb")["address"]
    assert files.is_relative_to(alone)
    assert len(list((files / "media/images/gate").glob("*.png"))) == 2
    [log] = files.parent.glob("*.wandb")
    for name in ("steps/loss", "validation/recall_at1", "model.visual-layers"):
        assert name.encode() in log.read_bytes()
