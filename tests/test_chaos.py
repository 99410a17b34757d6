"""Commands that are killed, or whose disk fails, lose nothing. More: `python scripts/chaos.py`."""

import subprocess
import sys
from pathlib import Path

import chaos_works
import pytest
import torch
from chaos import Chaos, differences, equal
from failing_disk import ERRORS, FailingDisk, fill, make_room, may_mount, mount, unmount

from gatedcir.errors import UserError


def test_a_training_that_is_disturbed_while_it_saves_loses_nothing(tmp_path, monkeypatch):
    small = str(Path(__file__).parent / "fixtures" / "release_0_1" / "src" / "model.pt")
    monkeypatch.setattr(chaos_works, "_SHORT", chaos_works._SHORT.replace("tiny", small))
    chaos = Chaos(tmp_path, seed=0)
    for _ in range(3):
        assert list(chaos.disturb("checkpoint")) == []
    assert chaos.times["checkpoint"] and len(chaos.expected["train"]) == 6
    if may_mount(chaos.folder):
        chaos.event, chaos.mounts = "full", True
        assert list(chaos.disturb("checkpoint")) == []


@pytest.mark.parametrize("event", ERRORS)
def test_a_failing_disk_answers_with_its_error_below_its_folder_only(tmp_path, monkeypatch, event):
    bad, good = tmp_path / "bad", tmp_path / "good"
    for folder in (bad, good):
        folder.mkdir()
        (folder / "old").write_text("old")
    monkeypatch.setenv("LD_PRELOAD", "")  # comes back afterwards
    monkeypatch.setenv("FAILING_DISK", "")
    try:
        disk = FailingDisk(tmp_path)
    except UserError as error:
        pytest.skip(str(error))
    disk.fail(bad, ERRORS[event])
    code = """
import errno, pathlib, sys
for folder in map(pathlib.Path, sys.argv[1:]):
    for do in (folder.joinpath("old").read_text, lambda: folder.joinpath("new").write_text("new"),
               folder.joinpath("old").unlink):
        try:
            do()
            print("done")
        except OSError as error:
            print(errno.errorcode[error.errno])
"""
    command = [sys.executable, "-S", "-c", code, str(bad), str(good)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    expected = {
        "EIO": ["EIO", "EIO", "EIO"],
        "full": ["done", "ENOSPC", "done"],
        "read-only": ["done", "EROFS", "EROFS"],
    }
    assert said == [*expected[event], "done", "done", "done"]


def test_a_small_disk_is_full_until_there_is_room(tmp_path):
    if not may_mount(tmp_path):
        pytest.skip("no disk can be mounted here")
    mount(tmp_path)
    try:
        fill(tmp_path)
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "file").write_text("content")
        make_room(tmp_path)
        (tmp_path / "file").write_text("content")
    finally:
        unmount(tmp_path)


def test_what_is_lost_or_changed_is_found():
    good = {"row 0": 1.0, "row 1": float("nan"), "last.pt of epoch 1": 0}
    assert list(differences({"last.pt of epoch 0": 0}, good, good)) == []
    assert len(list(differences({"row 2": 0}, good, good))) == 1
    assert len(list(differences({}, good, {**good, "row 0": 2.0}))) == 1
    assert len(list(differences({}, good, {**good, "row 2": 2.0}))) == 1


@pytest.mark.parametrize("value", [float("nan"), torch.ones(2), {"a": (1, [2.0])}])
def test_what_counts_as_equal(value):
    assert equal(value, value) and not equal(value, 0) and not equal({"a": value}, {"a": 0})
