"""Processes that are forked from one that has imported everything: a launcher without its price.

Each start of Python with PyTorch and transformers costs seconds of processor time. A test that
asks what processes learn, and not how they are launched, need not pay for it twice a rank.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

COUNT = 2
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["gatedcir.training.loop", "gatedcir.assemble.evaluator"])


def run(
    script: str, arguments: list[str], environment: dict[str, str], *, limit: float
) -> subprocess.CompletedProcess[str]:
    """Run a script on two processes; past `limit` seconds all of them are killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(COUNT)}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        processes = [
            _CONTEXT.Process(
                target=_one,
                args=(script, arguments, output),
                kwargs={**environment, **ranks, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(COUNT)
        ]
        for process in processes:
            process.start()
        _join(processes, time.monotonic() + limit)
        codes = [process.exitcode or 0 for process in processes]
        said = output.read_text(encoding="utf-8", errors="replace")
    return subprocess.CompletedProcess(script, next(filter(None, codes), 0), said)


def _join(processes: list[ForkServerProcess], end: float) -> None:
    """Wait for all of them. What still waits for one that failed, or is late, is killed."""
    while running := [process for process in processes if process.is_alive()]:
        failed = any(process.exitcode for process in processes)
        left = end - time.monotonic()
        if failed or left < 0:
            for process in running:
                process.kill()
        wait([process.sentinel for process in running], None if failed else left)


def _one(script: str, arguments: list[str], output: Path, **environment: str) -> None:
    """What one rank does; it ends as the script ends."""
    os.environ.update(environment)
    sys.argv = [script, *arguments]
    with output.open("a", encoding="utf-8") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    runpy.run_path(script, run_name="__main__")
