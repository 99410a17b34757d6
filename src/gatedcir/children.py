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

_FLAG = "GATEDCIR_ENDS_WITH_STDIN"


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


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which ends this
    parent = multiprocessing.parent_process()
    assert parent is not None
    Thread(target=_end_after, args=(parent.join,), daemon=True).start()


def _end_after(wait: Any, *args: Any) -> None:
    wait(*args)
    os._exit(1)
