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
    def pid(self) -> int | None:
        """The number of the process."""
        return self._process.pid

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

    def kill(self) -> None:
        """End it."""
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end, at most so many seconds."""
        self._process.join(timeout)
        return self._process.exitcode


def start(
    command: Sequence[str], environment: dict[str, str], *, stdout: BinaryIO, stderr: BinaryIO
) -> Started:
    """`python -m MODULE`, `python -c CODE` or `python FILE` without the start of Python."""
    process = _CONTEXT.Process(
        target=_python,
        args=(command[1:], environment, Path.cwd(), stdout.name, stderr.name),
        daemon=True,
    )
    process.start()
    return Started(process)


def start_training(
    command: Sequence[str], environment: dict[str, str], **streams: BinaryIO
) -> Started | subprocess.Popen:
    """In place of `gatedcir.children.start`: `python -m gatedcir` is forked, others are started."""
    begin = start if tuple(command[1:3]) == ("-m", "gatedcir") else children.start
    return begin(command, environment, **streams)


def call(command: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The same to its end, with what it prints."""
    with (
        tempfile.NamedTemporaryFile("rb") as stdout,
        tempfile.NamedTemporaryFile("rb") as stderr,
    ):
        status = start(command, environment, stdout=stdout, stderr=stderr).wait()
        said = [stream.read().decode(errors="replace") for stream in (stdout, stderr)]
    return subprocess.CompletedProcess(command, status, *said)


def _python(
    words: Sequence[str], environment: dict[str, str], folder: Path, stdout: str, stderr: str
) -> None:
    """What a started command does; it ends as the command ends."""
    import torch

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    for number, name in ((1, stdout), (2, stderr)):
        with Path(name).open("ab") as stream:
            os.dup2(stream.fileno(), number)
    multiprocessing.current_process()._config["daemon"] = False  # it may start workers
    sys.argv = [*words] if words[0] not in ("-m", "-c") else [words[0], *words[2:]]
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        exec(words[1], {"__name__": "__main__"})
    else:
        runpy.run_path(words[0], run_name="__main__")


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
