"""Children end with their parent, however that ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import psutil
import pytest

from gatedcir.children import workers

PATIENCE = 20  # seconds until a test fails

POOL = """
import multiprocessing, time
from gatedcir.children import workers
with workers(2, multiprocessing.get_context("fork")) as pool:
    list(pool.map(time.sleep, [0, 0]))
    print("ready", flush=True)
    list(pool.map(time.sleep, [600, 600]))
"""
SPAWNED = POOL.replace("fork", "spawn")
COMMAND = """
import os, sys, time
from gatedcir.children import start
child = "import time, gatedcir.children as c; c.end_with_starter(); print(1, flush=True)"
process = start([sys.executable, "-c", f"{child}; time.sleep(600)"], dict(os.environ), stdout=-1)
process.stdout.readline()
print("ready", flush=True)
time.sleep(600)
"""


def run(code):
    """A program that is ready, and its children."""
    # A background process of a shell without job control ignores Ctrl-C, and tests may be in one.
    begin = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", begin + code]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdout.readline() == b"ready\n"
    return process, psutil.Process(process.pid).children(recursive=True)


def still_there(children):
    """Those that run PATIENCE seconds later. Nobody may have asked yet how an orphan ended."""
    end = time.monotonic() + PATIENCE
    while (running := [one for one in children if runs(one)]) and time.monotonic() < end:
        time.sleep(0.01)
    return running


def runs(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize("code", [POOL, SPAWNED, COMMAND], ids=["forked", "spawned", "command"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=str)
def test_children_of_a_killed_process_end(code, number):
    process, children = run(code)
    assert children
    process.send_signal(number)
    assert not still_there(children)
    assert process.wait(PATIENCE) == -number


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_a_pool(times):
    process, children = run(POOL)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
        time.sleep(0.05)
    process.wait(PATIENCE)
    assert not still_there(children)


def test_an_error_in_the_block_ends_the_work():
    with pytest.raises(ZeroDivisionError), workers(2) as pool:
        future = pool.submit(time.sleep, 600)
        raise ZeroDivisionError
    assert isinstance(future.exception(), BrokenProcessPool)


def test_workers_give_their_results_in_order():
    with workers(2) as pool:
        assert list(pool.map(abs, [-2, 1, -3])) == [2, 1, 3]
