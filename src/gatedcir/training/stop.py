"""Signals that ask a run to end: it saves its state first, where it has one."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gatedcir.children import ASKS
from gatedcir.errors import Stopped


class Stop:
    """Which signal came, and whether it must wait for the end of a step or of a save.

    A second Ctrl-C never waits.
    """

    def __init__(self) -> None:
        self.asked = 0
        """The signal's number. 0 if none came."""
        self.where = ""
        """How far the run is, in words."""
        self._waits = False
        self._process = os.getpid()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over the signals inside. Only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in ASKS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def later(self) -> Iterator[None]:
        """Signals only set `asked` inside, and the block looks there."""
        with self._set(waits=True):
            yield

    @contextmanager
    def now(self) -> Iterator[None]:
        """Signals end the block at once, also one that came before."""
        with self._set(waits=False):
            if self.asked:
                raise Stopped(self.asked)
            yield

    @contextmanager
    def _set(self, *, waits: bool) -> Iterator[None]:
        before, self._waits = self._waits, waits
        try:
            yield
        finally:
            self._waits = before

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a child took the handler over
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = self.asked or number
        if not self._waits:
            raise Stopped(number)


def in_words(end: KeyboardInterrupt, line: str) -> KeyboardInterrupt:
    """The same end of a run, with a line on how to go on."""
    return Stopped(end.number, line) if isinstance(end, Stopped) else KeyboardInterrupt(line)
