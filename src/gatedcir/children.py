"""Processes that end with the one that started them, even if that one is killed.

A killed process cannot stop its children. Each child therefore watches its parent in a thread. It
waits for the end of a pipe, which the parent holds open and the system closes.
"""

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from threading import Thread
from typing import Any

ASKS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
"""Signals that ask a process to end: Ctrl-C, the end of a job, and Slurm's warning before it.
Windows has no SIGUSR1."""
_FLAG = "GATEDCIR_ENDS_WITH_STDIN"
_GRACE = 30  # seconds that a loading process lives on after SIGTERM


@contextmanager
def workers(
    processes: int | None = None, context: BaseContext | None = None
) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes end at once where the block ends with an error, as after Ctrl-C."""
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(processes, context, initializer=_begin_worker) as pool:
        try:
            yield pool
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


def start(command: Sequence[str], environment: dict[str, str], **streams: Any) -> subprocess.Popen:
    """Start a command. If it calls `end_with_starter`, it ends with this process."""
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, env={**environment, _FLAG: "1"}, **streams
    )


def end_with_starter() -> None:
    """Watch the parent of a command that `start` began. Does nothing in other commands."""
    if os.environ.pop(_FLAG, None):
        # Not sys.stdin, whose lock the thread would hold when the process ends.
        Thread(target=_end_after, args=(os.read, 0, 1), daemon=True).start()


def outlive_signals(worker: int) -> None:
    """Let a loading process of torch go on until a training that is to end has done its step.

    Signals often reach all processes of a command. This one ends when the training says so, and
    when the training is gone.
    """
    for number in ASKS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which ends this
    parent = multiprocessing.parent_process()
    assert parent is not None
    Thread(target=_end_after, args=(parent.join,), daemon=True).start()


def _end_after(wait: Any, *args: Any) -> None:
    wait(*args)
    os._exit(1)
