"""The Slurm recipe against stand-ins for Slurm's commands."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm_train.sh"


@pytest.fixture
def start(tmp_path):
    """Starts the recipe in an empty folder; `commands.txt` there lists what it ran."""
    tools = {
        "scontrol": 'echo "scontrol $*" >> commands.txt; echo first; echo second',
        "srun": 'echo "srun" >> commands.txt; exec "$@"',
        "accelerate": 'echo "accelerate $*" >> commands.txt; sleep "${TRAINING:-0}"',
    }
    (tmp_path / "bin").mkdir()
    for name, body in tools.items():
        tool = tmp_path / "bin" / name
        tool.write_text(f"#!/bin/bash\n{body}\n")
        tool.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    own = {"SLURM_JOB_ID": "7", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "nodes", "PATH": path}

    def run(*arguments, **more):
        environment = {**os.environ, **own, **more}
        command = ["bash", str(SCRIPT), *arguments]
        return subprocess.Popen(command, cwd=tmp_path, env=environment)

    return run


def commands(folder):
    path = folder / "commands.txt"
    return path.read_text() if path.exists() else ""


FLAGS = ["--config", "configs/cirr.yaml", "--data-path", "a folder"]


def test_a_new_run_is_launched_with_its_flags(start, tmp_path):
    assert start("runs/cirr", *FLAGS).wait(30) == 0
    assert commands(tmp_path).splitlines()[-1] == (
        "accelerate launch --config_file configs/accelerate/two_nodes_ddp.yaml --machine_rank 1 "
        "--main_process_ip first src/blip_fine_tune_2.py --config configs/cirr.yaml --data-path "
        "a folder --save-training --output runs/cirr"
    )


def test_a_run_with_a_saved_state_goes_on(start, tmp_path):
    (tmp_path / "runs/cirr/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/cirr/checkpoints/last.pt").touch()
    assert start("runs/cirr", *FLAGS).wait(30) == 0
    assert commands(tmp_path).endswith("src/blip_fine_tune_2.py --resume runs/cirr\n")


def test_a_run_without_a_state_is_put_aside(start, tmp_path):
    (tmp_path / "runs/cirr").mkdir(parents=True)
    assert start("runs/cirr", *FLAGS, SLURM_RESTART_COUNT="2").wait(30) == 0
    assert (tmp_path / "runs/cirr.unfinished-2").is_dir()
    assert commands(tmp_path).endswith("--output runs/cirr\n")


def test_the_signal_asks_for_another_start(start, tmp_path):
    process = start("runs/cirr", *FLAGS, TRAINING="2")
    end = time.monotonic() + 30
    while "accelerate" not in commands(tmp_path) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    process.wait(30)
    assert commands(tmp_path).endswith("scontrol requeue 7\n")


@pytest.mark.parametrize(
    ("arguments", "status"), [(["--help"], 0), (["-h"], 0), ([], 2), (["--config", "x"], 2)]
)
def test_usage_is_shown_outside_of_slurm_too(arguments, status):
    environment = {name: v for name, v in os.environ.items() if not name.startswith("SLURM")}
    done = subprocess.run(
        ["bash", SCRIPT, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == status
    assert (done.stderr if status else done.stdout).startswith("usage: sbatch scripts/slurm_train")


def test_a_shell_that_is_no_job_is_told_so(start, tmp_path):
    (tmp_path / "runs/cirr").mkdir(parents=True)
    assert start("runs/cirr", *FLAGS, SLURM_JOB_NODELIST="").wait(30) == 2
    assert (tmp_path / "runs/cirr").is_dir() and not commands(tmp_path)


def test_a_failed_training_fails_the_job(start):
    assert start("runs/cirr", *FLAGS, TRAINING="not a time").wait(30) != 0
