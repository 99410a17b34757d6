"""Several processes equal one. Every launch has a limit: processes that wait do so for ever."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import data_parallel
import pandas as pd
import psutil
import pytest
import torch
from conftest import SHORT

import blip_fine_tune_2


def launch(script: str, *arguments: object, limit: int) -> subprocess.CompletedProcess[str]:
    """Run a script on two processes; past `limit` seconds all of them are killed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    command += ["--local-addr", "127.0.0.1", script, *map(str, arguments)]
    # The host's own name may resolve to an address that nobody answers.
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    root = Path(blip_fine_tune_2.__file__).parent
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": loopback, "PYTHONPATH": str(root)}
    with tempfile.TemporaryFile("w+") as output:  # a pipe would stay open in what was started
        process = psutil.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            process.wait(limit)
        except psutil.TimeoutExpired:
            for each in [*process.children(recursive=True), process]:
                each.kill()
            output.write(f"\nkilled after {limit} s")
        code = process.wait()
        output.seek(0)
        return subprocess.CompletedProcess(command, code, output.read())


@pytest.fixture(scope="module")
def _reach() -> None:
    """Skips where even the launcher and a sum over two processes do not work."""
    done = launch(str(Path(__file__).with_name("reach.py")), limit=180)
    if done.returncode:
        pytest.skip(f"two processes cannot reach one another here: {done.stdout[-300:]}")


@pytest.mark.usefixtures("_reach")
def test_two_processes_equal_one_with_the_whole_batch(tmp_path):
    inputs, head = data_parallel.batch_and_head()
    loss = data_parallel.loss_of(head, inputs, data_parallel.TARGET_IDS)
    loss.backward()
    done = launch(data_parallel.__file__, tmp_path, limit=300)
    assert done.returncode == 0, done.stdout[-2000:]
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(data_parallel.PROCESSES)]
    torch.testing.assert_close(sum(r[0] for r in results) / len(results), loss)
    for _, gradient in results:  # averaged over processes by DDP
        torch.testing.assert_close(gradient, head.weight.grad)


@pytest.mark.usefixtures("_reach")
def test_the_command_trains_on_two_processes(home, tmp_path):
    flags = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset", *SHORT]
    flags += ["--num-epochs", "1", "--save-best", "--output-dir", tmp_path / "run"]
    done = launch(blip_fine_tune_2.__file__, *flags, limit=300)
    assert done.returncode == 0, done.stdout[-2000:]
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["processes"] == 2
    assert len(pd.read_csv(tmp_path / "run" / "validation_metrics.csv")) == 1
    assert (tmp_path / "run" / "checkpoints" / "best.pt").is_file()
