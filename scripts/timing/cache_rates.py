"""Rates of the feature cache, next to those of the disk and the memory."""

import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from bench import limits
from PIL import Image
from torch import Tensor

from gatedcir.data.sources import PixelSource, Source, batches
from gatedcir.data.transforms import make_transform
from gatedcir.evaluation.report import table
from gatedcir.features.folder import FeatureFolder
from gatedcir.resources import GIB, MIB, peak_memory

if TYPE_CHECKING:
    from bench_cache import Options

MEGA = 1e6
_REPEATS = 3  # the best counts, because other work on the machine only slows things down


def report(options: "Options") -> None:
    """Print a table of the measurements."""
    size = options.images * options.tokens * options.width * 2
    print(f"{options.images} images of {size / options.images / MIB:.2f} MiB", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = [
            [
                name,
                f"{options.images / seconds:.0f}",
                f"{size / seconds / MEGA:.0f}",
                f"{plain / seconds:.2f}",
                f"{size / plain / MEGA:.0f}",
            ]
            for name, seconds, plain in _measure(options, Path(folder))
        ]
    print(limits(torch.device("cpu")))
    print(table(["", "images/s", "MB/s", "ratio to the plain rate", "plain rate, MB/s"], rows))
    print(f"peak memory {peak_memory(torch.device('cpu')) / GIB:.2f} GiB")


def _measure(options: "Options", folder: Path) -> list[tuple[str, float, float]]:
    """An action, its seconds, and the seconds of the simplest way to move as many bytes."""
    levels = torch.randn(options.images, options.tokens, options.width).to(torch.bfloat16)
    names = random.Random(0).sample(range(options.images), options.images)
    order = [f"{name:06}" for name in names]
    source = _pictures(folder, sorted(order))
    raw = folder / "raw"
    disk_write = _best(lambda: _write_raw(raw, levels))
    store = FeatureFolder.below(
        folder, {}, shapes=[(options.tokens, options.width)], dtype=torch.bfloat16
    )
    written = _seconds(lambda: _fill(store, source, levels, options.batch_size))
    cold_raw = _seconds(lambda: _read_raw(raw), before=lambda: _forget([raw]))
    on_disk = store.open(source.paths)
    shards = list(store.path.glob("*.safetensors"))
    cold = _seconds(lambda: _read(on_disk, order, options), before=lambda: _forget(shards))
    copy = torch.empty_like(levels)
    memory = _best(lambda: copy.copy_(levels))
    warm = _best(lambda: _read(on_disk, order, options))
    load = _best(lambda: store.load(source.paths))
    in_memory = store.load(source.paths)
    single = _best(lambda: _read(in_memory, order, options))
    chunks = torch.tensor(names).split(options.batch_size)
    at_once = _best(lambda: [in_memory.levels[0].index_select(0, rows) for rows in chunks])
    return [
        ("write", written, disk_write),
        ("random rows, cold disk", cold, cold_raw),
        ("random rows, warm disk", warm, memory),
        ("load into memory", load, memory),
        ("random rows, memory", single, memory),
        ("the same, gathered at once", at_once, memory),
    ]


def _pictures(folder: Path, names: list[str]) -> PixelSource:
    """Images as small as they can be."""
    paths = {name: folder / f"{name}.png" for name in names}
    for number, path in enumerate(paths.values()):
        Image.new("RGB", (1, 1), (number % 256, number // 256, 0)).save(path)
    return PixelSource(paths, make_transform("clip", size=1))


def _fill(store: FeatureFolder, source: PixelSource, levels: Tensor, batch_size: int) -> None:
    waiting = iter(levels.split(batch_size))
    store.fill(
        source, lambda _: [next(waiting)], batch_size=batch_size, num_workers=0, progress=False
    )


def _read(source: Source, names: list[str], options: "Options") -> None:
    for _ in batches(source, names, batch_size=options.batch_size, num_workers=0):
        pass


def _write_raw(file: Path, levels: Tensor) -> None:
    with file.open("wb") as written:
        written.write(levels.view(torch.uint8).numpy().data)
        os.fsync(written.fileno())


def _read_raw(file: Path) -> None:
    with file.open("rb", buffering=0) as content:
        while content.read(2**24):
            pass


def _forget(files: list[Path]) -> None:
    """Make the system read the files from the disk the next time."""
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _seconds(call: Callable[[], object], before: Callable[[], None] | None = None) -> float:
    if before is not None:
        before()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _best(call: Callable[[], object]) -> float:
    return min(_seconds(call) for _ in range(_REPEATS))
