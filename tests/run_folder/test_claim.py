"""One process at a time has a run's folder, and a killed one does not keep it."""

import signal
import subprocess
import sys

import pytest

from gatedcir.errors import UserError
from gatedcir.run_folder.claim import LOCK, Claim, in_use

HOLD = """
import pathlib, sys, time
from gatedcir.run_folder.claim import Claim
claim = Claim(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_claim_is_refused_until_the_first_is_released(tmp_path):
    folder = tmp_path / "a" / "run"
    first = Claim(folder)
    with pytest.raises(UserError, match=r"run is in use .*--output"):
        Claim(folder)
    assert in_use(folder)
    first.release()
    assert not list(tmp_path.iterdir())  # what the claim made, it removes
    again = Claim(folder)
    assert not again.was_left
    (folder / "file").touch()
    again.release()
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_folders_of_others_are_not_removed(tmp_path):
    (tmp_path / "a").mkdir()
    Claim(tmp_path / "a").release()
    assert (tmp_path / "a").is_dir()


def test_a_claim_ends_with_its_process_and_leaves_a_trace(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="in use"):
        Claim(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert not in_use(tmp_path)
    claim = Claim(tmp_path)
    assert claim.was_left
    claim.release(leave=True)
    assert (tmp_path / LOCK).exists()
