"""Disturb commands at random moments, let them go on, and compare with undisturbed ones.

A moment is a call of a function, such as a training step or the write of a checkpoint, and a time
after it began. Both are drawn. There the process is killed with kill -9, or the disk that it writes
to begins to fail. What had been written until then must still be there at the end, and the end must
equal that of an undisturbed command, bit for bit. If the disk fails, the command must say so in one
sentence that names a file.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from chaos_works import MOMENTS, WORKS, Ended, flags
from failing_disk import ERRORS, FailingDisk, fill, make_room, may_mount, mount, unmount

from gatedcir.errors import UserError, run_command
from gatedcir.files import UNFINISHED
from gatedcir.options.config import Range
from gatedcir.options.parsing import parse

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = ["gatedcir.training.loop", "gatedcir.assemble.evaluator"]
Event = Literal["kill", "full", "EIO", "read-only"]


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _call(
    argv: list[str],
    log: Path,
    place: str,
    number: int,
    delay: float,
    event: Callable[[], None],
    calls: Any | None,
) -> None:
    """Run a command in this process, to which something happens after a call of a function.

    Args:
        argv: the command.
        log: for its output.
        place: the function.
        number: which call of it. -1: none.
        delay: in seconds.
        event: what happens.
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
            timer = threading.Timer(delay, event)
            timer.daemon = True
            timer.start()
        start = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            if calls is not None:
                calls.put(time.perf_counter() - start)

    setattr(owner, name, watched)
    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        run_command(lambda: main.main(argv))


def log_of(out: Path) -> Path:
    """Where the commands that write into a folder say something: not on its disk."""
    return out.with_suffix(".log")


def _last_line(out: Path) -> str:
    return log_of(out).read_text(encoding="utf-8").strip().rpartition("\n")[2]


def start(
    argv: list[str],
    out: Path,
    place: str = "gatedcir.run_folder.checkpoint:save",
    *,
    number: int = -1,
    delay: float = 0.0,
    event: Callable[[], None] = _kill,
    calls: Any | None = None,
) -> int:
    """Run a command to its end in a process of its own. Returns the exit status."""
    process = _CONTEXT.Process(
        target=_call, args=(argv, log_of(out), place, number, delay, event, calls)
    )
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


class Chaos:
    """Undisturbed commands, and those that are disturbed, below a folder."""

    def __init__(self, folder: Path, seed: int, event: Event = "kill") -> None:
        """UserError if the event cannot be made here."""
        self.folder, self.draw, self.event = folder.resolve(), random.Random(seed), event
        self.data = self.folder / "data"
        self.data.mkdir()
        self.mounts = event == "full" and may_mount(self.folder)
        self.disk = None if event == "kill" or self.mounts else FailingDisk(self.folder)
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

    def disturb(self, moment: str) -> Iterator[str]:
        """Disturb the moment's command once and let it go on. Gives what is wrong afterwards."""
        self.undisturbed(moment)
        status = 0
        while not status:  # a command may end before the moment comes
            self.done += 1
            out = self.folder / f"disturbed-{self.done}"
            out.mkdir()
            if self.mounts:
                mount(out)
            try:
                status, number, delay = self._disturbed(moment, out)
                where = f"{out}, {self.event} {delay:.3f} s after call {number} of {moment}"
                if status:
                    yield from (f"{where}: {fault}" for fault in self._faults(moment, out, status))
            finally:
                if self.mounts:
                    unmount(out)

    def _disturbed(self, moment: str, out: Path) -> tuple[int, int, float]:
        """Start a command that is disturbed. Returns its status, and the moment."""
        name, place = MOMENTS[moment]
        number = self.draw.randrange(len(self.times[moment]))
        longest = max(self.times[moment][number], 5.0 if moment == "grid" else 0.0)
        delay = self.draw.uniform(0, longest)
        command = WORKS[name].command(self.data, out)
        event = _kill if self.event == "kill" else partial(fill, out)
        if self.disk is not None:
            event = partial(self.disk.fail, out, ERRORS[self.event])
        status = start(command, out, place, number=number, delay=delay, event=event)
        if self.disk is not None:
            self.disk.fail(out, 0)
        make_room(out)
        return status, number, delay

    def _faults(self, moment: str, out: Path, status: int) -> Iterator[str]:
        """What is wrong with the end of a command, and after it went on."""
        name, _ = MOMENTS[moment]
        work = WORKS[name]
        said = _last_line(out)
        if status != (-signal.SIGKILL if self.event == "kill" else 2):
            yield f"it ended with status {status}: {said}"
        elif status == 2 and not (said.startswith("error: ") and str(out) in said):
            yield f"no sentence named a file: {said}"
        before = work.read(out)
        self._must((work.again or work.command)(self.data, out), out)
        after = work.read(out)
        if left := list((out / "run").rglob(f"*{UNFINISHED}")):
            yield f"{left} stayed behind"
        yield from differences(before, after, self.expected[name])

    def _must(self, argv: list[str], out: Path, *args: Any, **options: Any) -> None:
        if status := start(argv, out, *args, **options):
            raise RuntimeError(f"{' '.join(argv)} ended with status {status}: {_last_line(out)}")


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

    event: Event = "kill"
    """What happens: kill -9, a small disk that is full, a disk that answers EIO, as that of a
    network does, or one that may only be read. Where no small disk can be mounted, the error of a
    full one stands for it. Errors need Linux and a C compiler."""
    times: Annotated[int, Range(1)] = 20
    """Commands that are disturbed. The moments take turns."""
    seed: int = 0
    """Other seeds give other moments."""
    moments: tuple[str, ...] = ()
    """Some of step, validation, checkpoint, row, features, index, grid, bank. Without it: all."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print what was lost at each kind of moment, and exit with status 1 if anything was."""
    options = parse(Options, argv, description="Disturb commands at random moments.")
    faults: list[str] = []
    if unknown := set(options.moments) - MOMENTS.keys():
        raise UserError(f"there are no moments {sorted(unknown)}; name some of {list(MOMENTS)}.")
    moments = options.moments or tuple(MOMENTS)
    with tempfile.TemporaryDirectory(prefix="gatedcir_chaos_") as folder:
        chaos = Chaos(Path(folder), options.seed, options.event)
        if options.event == "full" and not chaos.mounts:
            print("no disk can be mounted here; the error of a full one stands for it")
        for number in range(options.times):
            moment = moments[number % len(moments)]
            found = list(chaos.disturb(moment))
            faults += found
            said = "; ".join(found) or "all there"
            print(f"{options.event} {number + 1:3}  {moment:12}{said}", flush=True)
    print(f"{options.times} times {options.event}, {len(faults)} faults")
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
