"""Change bytes of every kind of input at random, and fail if one is not read or refused in words.

A read of a changed input may succeed, or end with a `UserError` of one line. A traceback, a read of
more than ten seconds of the processor, more than 1 GB more of memory, and a file written next to
the input are faults. An input follows from its kind, the seed and its number, so that a fault can
be seen again.
"""

import faulthandler
import io
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from input_kinds import KINDS, Kind, Read

from gatedcir.errors import UserError, run_command
from gatedcir.options.parsing import parse

MOST_SECONDS, MOST_BYTES = 10, 1e9
TOKENS = (
    *(b"null", b"-1", b"1e999", b"NaN", b"99999999999999999999", b"true", b'""', b"[]", b"{}"),
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud83d", b"../../", b"\n", b"&a *a", b"!!python/"),
    *(b"<<: ", b"[" * 2000, b'{"a":' * 2000, b"--", b"|", b'"', b",", b"\xf0\x9f\x99\x82"),
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    1e400,
    2**70,
    "",
    " ",
    "a",
    "\x00",
    "\ud83d",
    "../../a",
    "a" * 5000,
    [],
    {},
)


@dataclass
class Tally:
    """What became of the inputs of a kind."""

    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    faults: list[str] = field(default_factory=list)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """A copy with one to four changes: bytes, cuts, repetitions, tokens, numbers."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, to = sorted(rng.randrange(len(changed) + 1) for _ in range(2))
        to = min(to, at + 200) if rng.random() < 0.8 else to
        match rng.randrange(6):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del changed[at:to]
            case 2:
                changed[at:at] = changed[at:to]
            case 3:
                changed[at:at] = rng.choice(TOKENS)
            case 4:
                changed[at:to] = rng.choice(TOKENS)
            case 5:
                changed[at : at + 8] = rng.randbytes(8)
    return bytes(changed)


def mutate_json(content: bytes, rng: random.Random) -> bytes:
    """A copy of a JSON file in which one value is another one, of any type, or is gone."""
    value = json.loads(content)
    holders: list[tuple[Any, Any]] = [([value], 0)]
    for holder, key in holders:
        inner = holder[key]
        keys = (
            inner
            if isinstance(inner, dict)
            else range(len(inner) if isinstance(inner, list) else 0)
        )
        holders += [(inner, one) for one in keys]
    holder, key = rng.choice(holders)
    holder[key] = rng.choice([*VALUES, [holder[key]] * 2])
    return json.dumps(holders[0][0][0]).encode()


def run(kind: Kind, folder: Path, *, inputs: int, seed: str) -> Tally:
    """Change and read a kind's inputs."""
    tally = Tally()
    files = kind.write(folder)
    good = {file: file.read_bytes() for file in files}
    kind.read(folder)  # the good files can be read
    there, before = _names(folder), _memory()
    for number in range(inputs):
        rng = random.Random(f"{seed}/{number}")
        file = rng.choice(files)
        change = mutate_json if file.suffix == ".json" and rng.random() < 0.7 else mutate
        file.write_bytes(change(good[file], rng))
        start = time.process_time()  # other programs may keep this one waiting
        fault = fault_of(kind.read, folder, tally)
        took = time.process_time() - start
        tally.slowest = max(tally.slowest, took)
        if took > MOST_SECONDS:
            fault = f"it took {took:.0f} s"
        if _memory() - before > MOST_BYTES:
            fault, before = "it took more than 1 GB", _memory()
        if _names(folder) != there:
            fault = "it wrote a file"
        if fault:
            tally.faults.append(f"{seed}/{number} ({file.name}): {fault}")
        file.write_bytes(good[file])
    return tally


def fault_of(read: Read, folder: Path, tally: Tally) -> str:
    """Read a changed input, and count what becomes of it. Returns what is wrong with that."""
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            read(folder)
        tally.read += 1
    except (UserError, OSError) as error:  # of both, a command makes one sentence
        tally.refused += 1
        return "" if "\n" not in str(error) else f"several lines: {error}"
    except SystemExit as end:  # of --help
        tally.read += 1
        return f"status {end.code}" if end.code else ""
    except Exception:
        return traceback.format_exc(limit=-3)[:2000]
    return ""


def _memory() -> int:
    """The most that this process has had."""
    import torch

    from gatedcir.resources import peak_memory

    return peak_memory(torch.device("cpu"))


def _names(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.parent.rglob("*"))


def run_all(
    inputs: int, seed: int, kinds: Sequence[str] = tuple(KINDS)
) -> Iterator[tuple[str, Tally]]:
    """The kinds with their tallies. The inputs are shared equally among them."""
    for kind in kinds:
        place = Path(tempfile.mkdtemp(prefix="gatedcir_mutated_"))
        (place / "input").mkdir()
        try:
            share = -(-inputs // len(kinds))
            yield kind, run(KINDS[kind], place / "input", inputs=share, seed=f"{kind}/{seed}")
        finally:
            shutil.rmtree(place)


@dataclass(frozen=True)
class Options:
    """How many inputs."""

    inputs: int = 10_000
    """Changed inputs in all, shared equally among the kinds."""
    seed: int = 0
    """Other seeds give other inputs."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print what became of the inputs of each kind, and exit with status 1 if there are faults."""
    options = parse(Options, argv, description="Read changed inputs of every kind.")
    failed = 0
    print(f"{'kind':12}{'inputs':>8}{'read':>8}{'refused':>9}{'faults':>8}{'slowest':>10}")
    for kind, found in run_all(options.inputs, options.seed):
        count = found.read + found.refused
        faults = len(found.faults)
        failed += faults
        print(
            f"{kind:12}{count:8}{found.read:8}{found.refused:9}{faults:8}{found.slowest:9.2f}s",
            flush=True,
        )
        print(*found.faults[:3], sep="\n", end="\n" if found.faults else "")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    faulthandler.enable()
    run_command(main)
