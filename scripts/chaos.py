"""Kill commands with kill -9 at random moments, let them go on, and compare with undisturbed ones.

A moment is a call of a function, such as a training step or the write of a checkpoint, and a time
after it began. Both are drawn. What had been written when the process died must still be there at
the end, and the end must equal that of an undisturbed command, bit for bit.
"""

import math
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from chaos_works import MOMENTS, WORKS, Ended, flags

from gatedcir.errors import UserError, run_command
from gatedcir.files import UNFINISHED
from gatedcir.options.config import Range
from gatedcir.options.parsing import parse

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = ["gatedcir.training.loop", "gatedcir.assemble.evaluator"]


def _call(
    argv: list[str], log: Path, place: str, number: int, delay: float, calls: Any | None
) -> None:
    """Run a command in this process, which a call of a function ends after a delay.

    Args:
        argv: the command.
        log: for its output.
        place: the function.
        number: which call of it. -1: none.
        delay: in seconds.
        calls: a queue for the times of all calls.
    """
    import torch

    from gatedcir.commands import main
    from gatedcir.gallery import indexing, retriever

    torch.set_num_threads(1)
    indexing.WRITE_IMAGES = retriever.AT_ONCE = 1  # so that an index grows in many steps
    module, _, path = place.partition(":")
    *parents, name = path.split(".")
    owner: Any = import_module(module)
    for parent in parents:
        owner = getattr(owner, parent)
    function, count = getattr(owner, name), iter(range(sys.maxsize))

    def watched(*args: Any, **options: Any) -> Any:
        if next(count) == number:
            killer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
            killer.daemon = True
            killer.start()
        start = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            if calls is not None:
                calls.put(time.perf_counter() - start)

    setattr(owner, name, watched)
    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        main.main(argv)


def start(
    argv: list[str],
    out: Path,
    place: str = "gatedcir.run_folder.checkpoint:save",
    *,
    number: int = -1,
    delay: float = 0.0,
    calls: Any | None = None,
) -> int:
    """Run a command to its end in a process of its own. Returns the exit status."""
    process = _CONTEXT.Process(
        target=_call, args=(argv, out / "output.log", place, number, delay, calls)
    )
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


class Chaos:
    """Undisturbed commands, and those that are killed, below a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.data = folder / "data"
        _CONTEXT.set_forkserver_preload(_PRELOAD)
        from gatedcir.synthetic.layouts import write_cirr

        list(write_cirr(self.data / "cirr", {"train": 12, "val": 6, "test": 20}, seed=seed))
        self.times: dict[str, list[float]] = {}
        self.expected: dict[str, Ended] = {}
        self.done = 0

    def undisturbed(self, moment: str) -> None:
        """Run the moment's command once, and note how long the calls took."""
        if moment in self.times:
            return
        name, place = MOMENTS[moment]
        if name == "bank" and not (self.data / "run").exists():
            more = ["--batch-size", "3", "--num-epochs", "1", "--output", str(self.data / "run")]
            self._must(["train", *flags(self.data), *more], self.data)
        out = self.folder / f"undisturbed-{moment}"
        out.mkdir()
        with _CONTEXT.Manager() as manager:
            calls = manager.Queue()
            self._must(WORKS[name].command(self.data, out), out, place, calls=calls)
            self.times[moment] = [calls.get() for _ in range(calls.qsize())]
        self.expected.setdefault(name, WORKS[name].read(out))

    def kill(self, moment: str) -> Iterator[str]:
        """Kill the moment's command once and let it go on. Gives what is wrong afterwards."""
        self.undisturbed(moment)
        name, place = MOMENTS[moment]
        work, times, status = WORKS[name], self.times[moment], 0
        while status != -signal.SIGKILL:  # a command may end before the moment comes
            number = self.draw.randrange(len(times))
            delay = self.draw.uniform(0, max(times[number], 5.0 if moment == "grid" else 0.0))
            self.done += 1
            out = self.folder / f"killed-{self.done}"
            out.mkdir()
            status = start(work.command(self.data, out), out, place, number=number, delay=delay)
            if status not in (0, -signal.SIGKILL):
                raise RuntimeError(f"a command failed before it was killed; see {out}")
        before = work.read(out)
        self._must((work.again or work.command)(self.data, out), out)
        after, expected = work.read(out), self.expected[name]
        where = f"{out}, killed {delay:.3f} s after call {number} of {moment}"
        if left := list((out / "run").rglob(f"*{UNFINISHED}")):
            yield f"{where}: {left} stayed behind"
        yield from (f"{where}: {fault}" for fault in differences(before, after, expected))

    def _must(self, argv: list[str], out: Path, *args: Any, **options: Any) -> None:
        if status := start(argv, out, *args, **options):
            raise RuntimeError(f"{' '.join(argv)} ended with status {status}; see {out}/output.log")


def differences(before: Ended, after: Ended, expected: Ended) -> Iterator[str]:
    """What has been lost or changed since the kill, and what differs from an undisturbed end."""
    for key in before.keys() - after.keys():
        if not key.startswith(("last.pt", "best.pt")):  # later ones replace these
            yield f"{key} was there after the kill and is missing"
    if after.keys() != expected.keys():
        yield f"{sorted(after.keys() ^ expected.keys())} too few or too many"
    for key in after.keys() & expected.keys():
        if not equal(after[key], expected[key]):
            yield f"{key} differs"


def equal(one: Any, two: Any) -> bool:
    """Whether values are equal bit for bit, NaN included."""
    import torch

    if type(one) is not type(two):
        return False
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(equal, one, two))
    return one == two or (isinstance(one, float) and math.isnan(one) and math.isnan(two))


@dataclass(frozen=True)
class Options:
    """How often, and when."""

    kills: Annotated[int, Range(1)] = 20
    """Commands that are killed. The moments take turns."""
    seed: int = 0
    """Other seeds give other moments."""
    moments: tuple[str, ...] = ()
    """Some of step, validation, checkpoint, row, features, index, grid, bank. Without it: all."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print what was lost at each kind of moment, and exit with status 1 if anything was."""
    options = parse(Options, argv, description="Kill commands at random moments.")
    faults: list[str] = []
    if unknown := set(options.moments) - MOMENTS.keys():
        raise UserError(f"there are no moments {sorted(unknown)}; name some of {list(MOMENTS)}.")
    moments = options.moments or tuple(MOMENTS)
    with tempfile.TemporaryDirectory(prefix="gatedcir_chaos_") as folder:
        chaos = Chaos(Path(folder), options.seed)
        for number in range(options.kills):
            moment = moments[number % len(moments)]
            found = list(chaos.kill(moment))
            faults += found
            print(f"kill {number + 1:3}  {moment:12}{'; '.join(found) or 'all there'}", flush=True)
    print(f"{options.kills} kills, {len(faults)} faults")
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
