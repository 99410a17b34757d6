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
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import BinaryIO

from gatedcir import children

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


class Started:
    """What `gatedcir.children.start` gives, as far as an ablation uses it."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus the signal that ended it. None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """As `returncode`."""
        return self._process.exitcode

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def wait(self) -> int | None:
        """Wait for its end."""
        self._process.join()
        return self._process.exitcode


def start(
    command: Sequence[str], environment: dict[str, str], *, stdout: BinaryIO, stderr: BinaryIO
) -> Started | subprocess.Popen:
    """`python -m gatedcir ...` without the start of Python. Other commands are really started."""
    if tuple(command[1:3]) != ("-m", "gatedcir"):
        return children.start(command, environment, stdout=stdout, stderr=stderr)
    _, _, module, *arguments = command
    process = _CONTEXT.Process(
        target=_module,
        args=(module, arguments, stdout.name, stderr.name, environment, Path.cwd()),
        daemon=True,
    )
    process.start()
    return Started(process)


def _module(
    module: str,
    arguments: list[str],
    stdout: str,
    stderr: str,
    environment: dict[str, str],
    folder: Path,
) -> None:
    """What a started module does; it ends as the module ends."""
    import torch

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    for number, name in ((1, stdout), (2, stderr)):
        with Path(name).open("ab") as stream:
            os.dup2(stream.fileno(), number)
    multiprocessing.current_process()._config["daemon"] = False  # it may start workers
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


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
