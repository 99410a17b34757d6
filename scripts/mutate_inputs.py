"""Change bytes of every kind of input at random, and fail if one is not read or refused in words.

A read of a changed input may succeed, or end with a `UserError` of one line. A traceback, a read of
more than ten seconds, more than 1 GB more of memory, and a file written next to the input are
faults. An input follows from its kind, the seed and its number, so that a fault can be seen again.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from gatedcir.errors import UserError, run_command
from gatedcir.options.config import Config
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
Read = Callable[[Path], Any]


@dataclass(frozen=True)
class Kind:
    """A kind of input: a folder of good files, which of them are changed, and how it is read."""

    write: Callable[[Path], list[Path]]
    read: Read


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
    tally, memory = Tally(), psutil.Process()
    files = kind.write(folder)
    good = {file: file.read_bytes() for file in files}
    kind.read(folder)  # the good files can be read
    there, before = _names(folder), memory.memory_info().rss
    for number in range(inputs):
        rng = random.Random(f"{seed}/{number}")
        file = rng.choice(files)
        change = mutate_json if file.suffix == ".json" and rng.random() < 0.7 else mutate
        file.write_bytes(change(good[file], rng))
        start = time.perf_counter()
        fault = _fault(kind.read, folder, tally)
        took = time.perf_counter() - start
        tally.slowest = max(tally.slowest, took)
        if took > MOST_SECONDS:
            fault = f"it took {took:.0f} s"
        if memory.memory_info().rss - before > MOST_BYTES:
            fault, before = "it took more than 1 GB", memory.memory_info().rss
        if _names(folder) != there:
            fault = "it wrote a file"
        if fault:
            tally.faults.append(f"{seed}/{number} ({file.name}): {fault}")
        file.write_bytes(good[file])
    return tally


def _fault(read: Read, folder: Path, tally: Tally) -> str:
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


def _names(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.parent.rglob("*"))


def _write_annotations(layout: str) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        group = {"id": 0, "members": ["a", "b", "c"]}
        cirr = [
            {"pairid": n, "reference": "a", "target_hard": "b", "caption": "is red"}
            | {"img_set": group}
            for n in range(3)
        ]
        garment = {"candidate": "a", "target": "b", "captions": ["is red", "is long"]}
        circo = {"id": 0, "reference_img_id": 1, "target_img_id": 2, "gt_img_ids": [2, 3]}
        circo |= {"relative_caption": "is red", "semantic_aspects": ["addition"]}
        images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(4)]
        contents: dict[str, dict[str, Any]] = {
            "CIRR": {
                "cirr/captions/cap.rc2.val.json": cirr,
                "cirr/image_splits/split.rc2.val.json": {n: f"./dev/{n}.png" for n in "abc"},
            },
            "FashionIQ": {
                "captions/cap.dress.val.json": [garment] * 3,
                "image_splits/split.dress.val.json": ["a", "b", "c"],
            },
            "CIRCO": {
                "annotations/val.json": [circo],
                "image_info_unlabeled2017.json": {"images": images},
            },
        }
        (folder / "COCO2017_unlabeled").mkdir(exist_ok=True)
        return [_json(folder / name, content) for name, content in contents[layout].items()]

    return write


def _json(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def _read_annotations(dataset: str, folder: Path) -> None:
    """The check never ends early. The reader may refuse."""
    from gatedcir.benchmarks.base import Choice
    from gatedcir.benchmarks.load import read_queries
    from gatedcir.doctor.findings import Findings
    from gatedcir.doctor.forms import read_dataset
    from gatedcir.doctor.report import Report, as_html, as_text
    from gatedcir.doctor.triplets import check_part

    notes = Findings()
    parts, absent = read_dataset(dataset, folder, notes, images=True)
    for part in parts:
        check_part(part, notes)
    report = Report(dataset, folder, {}, absent, None, notes)
    assert as_text(report) and as_html(report)
    read_queries(dataset, folder, "val", choice=Choice(categories=("dress",)), images=True)


def _write_own(ending: str) -> Callable[[Path], list[Path]]:
    lines = {
        ".jsonl": '{"reference": "a.png", "target": ["b.png"], "text": "is red", "split": "val"}\n'
        '{"reference": "b.png", "target": "a.png", "text": ["x", "y"], "split": "val"}\n',
        ".csv": "reference,target,text,split\na.png,b.png,is red,val\nb.png,a.png,x|y,val\n",
    }

    def write(folder: Path) -> list[Path]:
        file = folder / f"mine{ending}"
        file.write_text(lines[ending], encoding="utf-8")
        return [file]

    return write


def _read_own(ending: str, folder: Path) -> None:
    _read_annotations(f"{folder}/mine{ending}", folder)


def _write_yaml(folder: Path) -> list[Path]:
    file = folder / "options.yaml"
    file.write_text(
        "dataset: CIRR\nlearning-rate: 1e-4\nnum-epochs: 3\nsave-best: false\n"
        "model:\n  visual-layers: [-1, -2]\n  gated-fusion: {strategy: gated, blocks: 2}\n"
    )
    return [file]


def _read_yaml(folder: Path) -> None:
    parse(Config, ["--config", f"{folder}/options.yaml"], description="")


def _write_words(folder: Path) -> list[Path]:
    file = folder / "words"
    words = ("--dataset", "CIRR", "--learning-rate", "1e-4", "--no-save-best")
    file.write_text("\n".join((*words, "--model.visual-layers", "-1", "-2")))
    return [file]


def _read_words(folder: Path) -> None:
    words = (folder / "words").read_text(encoding="utf-8", errors="replace").split("\n")
    # Other modules and files are not for a random name to open.
    words = [word for word in words if ":" not in word and "config" not in word]
    parse(Config, words, description="")


def _write_checkpoint(folder: Path) -> list[Path]:
    import torch

    from gatedcir.run_folder.checkpoint import Checkpoint, save

    weights = {"temp": torch.tensor(0.07), "a": torch.randn(3, 4)}
    sizes = {"vision_config": {"hidden_size": 8}}
    save(folder / "last.pt", Checkpoint(weights, sizes, "{}", {"dataset": "CIRR"}, {}, 1, {}))
    return [folder / "last.pt"]


def _read_checkpoint(folder: Path) -> None:
    from gatedcir.run_folder.checkpoint import load

    load(folder / "last.pt")


def _write_index(folder: Path) -> list[Path]:
    import numpy as np

    index = _index(folder)
    tokens = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    index.add([0, 1, 2], ["a", "b", "c"], tokens / np.linalg.norm(tokens, axis=-1, keepdims=True))
    return sorted(folder.glob("*.safetensors"))


def _read_index(folder: Path) -> None:
    """A damaged segment is left out, and is named."""
    import numpy as np

    index = _index(folder)
    index.search(np.full((1, 1, 4), 0.5, dtype=np.float32), 2)
    for said in index.damaged.values():
        raise UserError(said)


def _index(folder: Path) -> Any:
    from gatedcir.search.index import Form
    from gatedcir.search.segments import SegmentedIndex

    return SegmentedIndex(folder, Form(tokens=2, dim=4, precision="fp32"))


def _write_images(folder: Path) -> list[Path]:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    files = [folder / f"image.{kind}" for kind in ("png", "jpg", "gif", "webp", "tif", "bmp")]
    for file in files:
        Image.fromarray(pixels).save(file)
    return files


def _read_images(folder: Path) -> None:
    from gatedcir.doctor.images import look

    for file in sorted(folder.iterdir()):
        for kind, detail in look(file).findings:
            raise UserError(f"{file}: {kind}, {detail}; replace it.")


def _write_answers(folder: Path) -> list[Path]:
    _write_annotations("CIRR")(folder)
    answers = {"version": "rc2", "metric": "recall", **{str(n): ["b", "c"] for n in range(3)}}
    return [_json(folder / "recall.json", answers)]


def _read_answers(folder: Path) -> None:
    from gatedcir.benchmarks.answers import read_answers
    from gatedcir.benchmarks.cirr import CIRR, parse_cirr

    read_answers([folder / "recall.json"], [parse_cirr(folder, "val")], CIRR.read_answers)


KINDS = {
    **{
        name: Kind(_write_annotations(name), partial(_read_annotations, name))
        for name in ("CIRR", "FashionIQ", "CIRCO")
    },
    "own.jsonl": Kind(_write_own(".jsonl"), partial(_read_own, ".jsonl")),
    "own.csv": Kind(_write_own(".csv"), partial(_read_own, ".csv")),
    "YAML": Kind(_write_yaml, _read_yaml),
    "flags": Kind(_write_words, _read_words),
    "checkpoint": Kind(_write_checkpoint, _read_checkpoint),
    "index": Kind(_write_index, _read_index),
    "images": Kind(_write_images, _read_images),
    "answers": Kind(_write_answers, _read_answers),
}


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
