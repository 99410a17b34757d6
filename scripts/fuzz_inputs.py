"""Change inputs of every kind, guided by what they reach, and stop at one that is a fault.

As mutate_inputs.py, whose kinds and faults these are. Here atheris keeps each input that reaches
code that no other has reached, and changes it further. It needs Linux (`pip install atheris`).
"""

import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from input_kinds import KINDS

from gatedcir.errors import UserError, run_command
from gatedcir.options.config import Range
from gatedcir.options.parsing import parse

_WATCHED = ["gatedcir", "yaml", "tyro", "zipfile", "csv"]  # packages whose code guides the search
_OWN = ("input_kinds", "mutate_inputs", "requests_to_page")
_LOG = "log"


def _fuzz(name: str, place: Path, seconds: int, seed: int) -> None:
    """Change and read a kind's inputs until the time is over. It ends this process.

    An input is the number of a file, in a byte, and the file's content.
    """
    import atheris

    for module in [one for one in sys.modules if one.partition(".")[0] in (*_WATCHED, *_OWN)]:
        del sys.modules[module]  # so that its code is watched from now on
    with atheris.instrument_imports(include=_WATCHED):
        from input_kinds import KINDS
        from mutate_inputs import MOST_BYTES, MOST_SECONDS, Tally, fault_of, mutate_json

        kind = KINDS[name]
        files = kind.write(place / "input")
        good = [file.read_bytes() for file in files]
        kind.read(place / "input")
    for number, content in enumerate(good):
        (place / "corpus" / str(number)).write_bytes(bytes([number]) + content)

    def read(data: bytes) -> None:
        number = data[0] % len(files) if data else 0
        files[number].write_bytes(data[1:])
        fault = fault_of(kind.read, place / "input", Tally())
        files[number].write_bytes(good[number])
        if fault:
            raise RuntimeError(fault)

    def change(data: bytes, most: int, seed: int) -> bytes:
        """Other values in half of the JSON files, other bytes in the rest."""
        rng = random.Random(seed)
        if data and files[data[0] % len(files)].suffix == ".json" and rng.random() < 0.5:
            with suppress(ValueError, RecursionError):
                return data[:1] + mutate_json(data[1:], rng)[: most - 1]
        return atheris.Mutate(data, most)

    limits = [f"-timeout={MOST_SECONDS}", f"-rss_limit_mb={int(_memory() + MOST_BYTES / 1e6)}"]
    longest = f"-max_len={2 * max(map(len, good)) + 1000}"
    given = [f"-max_total_time={seconds}", f"-seed={seed}", f"-artifact_prefix={place}/fault-"]
    words = [sys.argv[0], *given, *limits, longest, str(place / "corpus")]
    atheris.Setup(words, read, custom_mutator=change)
    atheris.Fuzz()


def _memory() -> float:
    """MB that this process has now."""
    import psutil

    return psutil.Process().memory_info().rss / 1e6


def fuzz(name: str, place: Path, *, seconds: int, seed: int) -> tuple[str, str]:
    """Fuzz a kind in a process of its own. Returns what libFuzzer counts, and a fault's end."""
    for folder in ("input", "corpus"):
        (place / folder).mkdir()
    child = os.fork()
    if not child:
        log = os.open(place / _LOG, os.O_CREAT | os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(log, stream)
        _fuzz(name, place, seconds, seed)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    said = (place / _LOG).read_text(encoding="utf-8", errors="replace")
    runs = re.search(r"Done (\d+) runs", said)
    reached = re.findall(r"cov: (\d+)", said)
    counts = f"{runs[1] if runs else '?':>9}{reached[-1] if reached else '?':>9}"
    return counts, said[-3000:] if status else ""


@dataclass(frozen=True)
class Options:
    """Which inputs, and how long."""

    kinds: tuple[str, ...] = ()
    """Some of the kinds of mutate_inputs.py. Without it: all, one after the other."""
    seconds: Annotated[int, Range(1)] = 60
    """For each kind."""
    seed: Annotated[int, Range(1)] = 1
    """Of libFuzzer, for which 0 is a random one."""
    faults: Path = Path("faults")
    """Folder for the inputs that are faults."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print what became of each kind, and exit with status 1 if there are faults."""
    options = parse(Options, argv, description="Fuzz inputs of every kind.")
    if unknown := set(options.kinds) - KINDS.keys():
        raise UserError(f"there are no kinds {sorted(unknown)}; name some of {list(KINDS)}.")
    _check_atheris()
    failed = False
    print(f"{'kind':12}{'inputs':>9}{'reached':>9}")
    for name in options.kinds or KINDS:
        with tempfile.TemporaryDirectory(prefix="gatedcir_fuzzed_") as folder:
            place = Path(folder)
            counts, fault = fuzz(name, place, seconds=options.seconds, seed=options.seed)
            print(f"{name:12}{counts}{'  a fault' if fault else ''}", flush=True)
            if fault:
                failed = True
                print(fault)
                options.faults.mkdir(parents=True, exist_ok=True)
                for file in place.glob("fault-*"):
                    shutil.copy(file, options.faults / f"{name}-{file.name}")
    if failed:
        sys.exit(1)


def _check_atheris() -> None:
    try:
        import atheris  # noqa: F401
    except ImportError:
        raise UserError("the fuzzer needs atheris; install it with pip install atheris.") from None


if __name__ == "__main__":
    run_command(main)
