"""How well and how fast a folder's index is searched, for every kind, on clustered features.

Each row says how many of the 50 best images a search finds, how long it takes, and how much memory
it needs. Next to the kinds stand NumPy, FAISS flat, and the time in which the machine reads the
features once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from gatedcir.errors import UserError, run_command
from gatedcir.options.marks import Range
from gatedcir.options.parsing import parse

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

_KEPT = 50
_FLOOR_BYTES = 1 << 30  # that are read to measure the machine
_AT_ONCE = 2048  # images that are made and written together


@dataclass(frozen=True)
class Options:
    """Which features are searched."""

    images: Annotated[int, Range(1)] = 20000
    """How many images are indexed."""
    tokens: int = 32
    """Features of each image."""
    dim: int = 256
    """Width of a feature."""
    clusters: int = 200
    """Groups of images that resemble each other."""
    queries: Annotated[int, Range(1)] = 20
    """Queries near images of the index. A row has the median of their times."""
    repeats: int = 5
    """Timed searches of each query. The shortest counts."""
    kinds: tuple[str, ...] = ("numpy", "faiss-flat", "exact", "large", "embedded", "server")
    """What is measured. numpy and faiss-flat keep all features in memory, with 4 bytes a number.
    embedded-graph, embedded-scalar, embedded-product and embedded-turbo are settings of the Qdrant
    engine that the kind embedded does not use."""
    probes: tuple[int, ...] = (64, 32, 16, 8)
    """The kind large looks into one list in so many, a row each."""
    pq_bytes: Annotated[int, Range(1)] = 64
    """Of a code of the kind large."""
    pool_factor: Annotated[int, Range(1)] = 1
    """Of the kind large."""
    index_url: str | None = None
    """A Qdrant server to measure too. Its collection stays there."""


@dataclass
class Clustered:
    """Features of random images around random centres, the same in every pass."""

    options: Options

    def __post_init__(self) -> None:
        import numpy as np

        shape = (self.options.clusters, self.options.tokens, self.options.dim)
        rng = np.random.default_rng(0)
        self.centres = rng.standard_normal(shape, dtype=np.float32)
        self.groups = rng.integers(0, self.options.clusters, self.options.images)

    def portions(self) -> "Iterator[tuple[range, np.ndarray]]":
        """Numbers and features [B, Q, E] of all images."""
        import numpy as np

        for start in range(0, self.options.images, _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, self.options.images))
            noise = np.random.default_rng([1, start])
            near = self.centres[self.groups[numbers.start : numbers.stop]]
            yield numbers, _unit(near + noise.standard_normal(near.shape, dtype=np.float32))

    def queries(self) -> "np.ndarray":
        """[M, 1, E], each near one feature of some images."""
        import numpy as np

        rng = np.random.default_rng(2)
        groups = self.groups[rng.integers(0, self.options.images, self.options.queries)]
        near = self.centres[groups, rng.integers(0, self.options.tokens, len(groups))]
        return _unit(near + rng.standard_normal(near.shape, dtype=np.float32))[:, None]


def _unit(values: "np.ndarray") -> "np.ndarray":
    import numpy as np

    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each kind of index."""
    options = parse(Options, argv, description="Measure indexes in a folder.")
    import tempfile
    from pathlib import Path

    import faiss
    import torch
    from engine_settings import SETTINGS

    from gatedcir.search.kinds import KINDS

    kinds = KINDS | SETTINGS
    if wrong := set(options.kinds) - {"numpy", "faiss-flat", *kinds}:
        raise UserError(
            f"there is no kind {', '.join(sorted(wrong))}; choose of numpy, faiss-flat, "
            f"{', '.join(kinds)}."
        )
    faiss.omp_set_num_threads(torch.get_num_threads())
    data = Clustered(options)
    size = options.images * options.tokens * options.dim * 2
    table = Table(data, floor=_read_once(size, options.repeats))
    print(
        f"{options.images} images, {size / 1e6:.0f} MB in half precision, "
        f"{torch.get_num_threads()} threads; read once: {1000 * table.floor:.1f} ms"
    )
    with tempfile.TemporaryDirectory() as place:
        for name in ("exact", *(kind for kind in options.kinds if kind != "exact")):
            if name in ("numpy", "faiss-flat"):
                _measure_in_memory(name, table)
            elif name != "server" or options.index_url is not None:
                _measure_kind(name, kinds[name], Path(place, name), table)


class Table:
    """Rows of measurements. The first one is exact."""

    def __init__(self, data: Clustered, *, floor: float) -> None:
        self.data, self.floor, self.options = data, floor, data.options
        self.asked = data.queries()
        self.right: list[set[int]] = []
        self.exact = 0.0

    def row(self, name: str, search: "Callable[[np.ndarray], Any]", more: str) -> None:
        """Measure a search of one query [1, 1, E] that gives the numbers of images [1, K]."""
        from statistics import median

        from bench import seconds

        first = seconds(lambda: search(self.asked[:1]), repeats=1)
        found = [set(search(one[None])[0].tolist()) - {-1} for one in self.asked]
        times = [
            seconds(lambda: search(one[None]), repeats=self.options.repeats)  # noqa: B023
            for one in self.asked
        ]
        self.right, self.exact = self.right or found, self.exact or median(times)
        kept = min(_KEPT, self.options.images)
        recall = sum(len(a & b) for a, b in zip(found, self.right, strict=True)) / len(found) / kept
        print(
            f"{name}: recall@{kept} {recall:.4f}, {1000 * median(times):.2f} ms "
            f"({median(times) / self.floor:.2f} times reading, {self.exact / median(times):.1f} "
            f"times as fast as exact), first search {1000 * first:.0f} ms, {more}",
            flush=True,
        )


def _read_once(size: int, repeats: int) -> float:
    """Seconds in which the machine reads so many bytes that are in memory."""
    import torch
    from bench import seconds

    read = min(size, _FLOOR_BYTES)
    numbers = torch.ones(max(1, read // 8), dtype=torch.int64)
    best = min(seconds(each, repeats=max(5, repeats)) for each in (numbers.sum, numbers.max))
    return best * size / read


def _measure_kind(name: str, kind: Any, folder: "Path", table: Table) -> None:
    """Write, open and search an index."""
    import time

    from bench import seconds

    from gatedcir.search.index import Form
    from gatedcir.search.ivfpq import Lists
    from gatedcir.search.server import Server

    options = table.options
    form = Form(options.tokens, options.dim, "fp16")
    if name == "server":
        assert options.index_url is not None
        Server.new(options.index_url).write(folder)
    lists = Lists(pq_bytes=options.pq_bytes, pool_factor=options.pool_factor)
    if name == "large":
        lists.write(folder)
    index, written = kind.open(folder, form, writable=True), 0.0
    for numbers, features in table.data.portions():
        digests = [f"{number:064x}" for number in numbers]
        start = time.perf_counter()
        index.add(numbers, digests, features)
        written += time.perf_counter() - start
    written += seconds(index.save, repeats=1)
    listed = "bytes in memory" in index.info()
    index.close()
    opened = seconds(lambda: kind.open(folder, form).close(), repeats=3)
    per_image = options.images / written
    for share in options.probes if listed else (0,):
        if share:
            nprobe = max(1, lists.count(options.images * options.tokens) // share)
            replace(lists, nprobe=nprobe).write(folder)
        index = kind.open(folder, form)
        info = index.info()
        memory = info.get("bytes in memory", 0) / options.images
        table.row(
            f"{name}, one list in {share}" if share else name,
            lambda query: index.search(query, _KEPT)[1],  # noqa: B023
            f"{per_image:.0f} images/s written, opened in {1000 * opened:.0f} ms, "
            f"{info['bytes'] / options.images:.0f} bytes an image on the disk, {memory:.0f} in "
            "memory",
        )
        index.close()


def _measure_in_memory(name: str, table: Table) -> None:
    """Search all features in memory, in float32."""
    import faiss
    import numpy as np
    import psutil

    options = table.options
    count, width = options.images * options.tokens, options.dim
    if 4 * count * width > psutil.virtual_memory().available // 2:
        print(f"{name}: left out, because {4e-9 * count * width:.1f} GB are too much here")
        return
    tokens = np.concatenate([features for _, features in table.data.portions()])
    tokens = tokens.reshape(count, width)
    flat = faiss.IndexFlatIP(width)
    if name == "faiss-flat":
        flat.add(tokens)
        del tokens

    def search(query: np.ndarray) -> Any:
        if name == "numpy":
            best = (tokens @ query[0, 0]).reshape(options.images, options.tokens).max(1)
            return np.argsort(-best)[None, :_KEPT]
        fetch = min(count, _KEPT * options.tokens)  # of 50 images at least
        found = flat.search(query[0], fetch)[1] // options.tokens
        return np.array(list(dict.fromkeys(found[0].tolist())))[None, :_KEPT]

    table.row(name, search, f"{4 * options.tokens * width} bytes an image in memory")


if __name__ == "__main__":
    run_command(main)
