"""How fast a folder's index is written, opened and searched, for every kind, on clustered features.

Next to the kinds stands the time in which the machine reads the same bytes once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gatedcir.errors import run_command
from gatedcir.options.parsing import parse


@dataclass(frozen=True)
class Options:
    """Which features are searched."""

    images: int = 20000
    """How many images are indexed."""
    tokens: int = 32
    """Features of each image."""
    dim: int = 256
    """Width of a feature."""
    clusters: int = 200
    """Groups of images that resemble each other."""
    repeats: int = 10
    """Timed searches. The shortest counts."""
    index_url: str | None = None
    """A Qdrant server to measure too. Its collection stays there."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each kind of index."""
    options = parse(Options, argv, description="Measure indexes in a folder.")
    import tempfile
    from pathlib import Path

    import numpy as np
    import torch
    from bench import seconds

    from gatedcir.search.index import Form
    from gatedcir.search.kinds import KINDS
    from gatedcir.search.server import Server

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((options.clusters, options.tokens, options.dim))
    groups = rng.integers(0, options.clusters, options.images)

    def unit(values: np.ndarray) -> np.ndarray:
        found = values / np.linalg.norm(values, axis=-1, keepdims=True)
        return found.astype(np.float32)

    def features(some: slice) -> np.ndarray:
        near = centres[groups[some]]
        return unit(near + rng.standard_normal(near.shape))

    size = options.images * options.tokens * options.dim * 2
    flat = torch.zeros(size // 8, dtype=torch.int64)
    floor = seconds(flat.sum, repeats=options.repeats)
    threads = torch.get_num_threads()
    print(f"{options.images} images, {size / 1e6:.0f} MB, {threads} threads")
    print(f"read once: {1000 * floor:.1f} ms")
    query = unit(centres[:1, :1] + rng.standard_normal((1, 1, options.dim)))
    with tempfile.TemporaryDirectory() as place:
        for name, kind in KINDS.items():
            form, folder = Form(options.tokens, options.dim, "fp16"), Path(place, name)
            if name == "server":
                if options.index_url is None:
                    continue
                Server.new(options.index_url).write(folder)
            index, written = kind.open(folder, form, writable=True), 0.0
            for start in range(0, options.images, 2048):
                some = slice(start, min(start + 2048, options.images))
                batch, numbers = features(some), range(some.start, some.stop)
                digests = [str(number) for number in numbers]

                def write(
                    numbers: range = numbers,
                    digests: list[str] = digests,
                    batch: np.ndarray = batch,
                ) -> None:
                    index.add(numbers, digests, batch)  # noqa: B023 (called at once)

                written += seconds(write, repeats=1)
            written += seconds(index.save, repeats=1)
            index.close()
            opened = seconds(lambda: kind.open(folder, form).close(), repeats=3)  # noqa: B023
            index = kind.open(folder, form)
            first = seconds(lambda: index.search(query, 10), repeats=1)  # noqa: B023
            later = seconds(lambda: index.search(query, 10), repeats=options.repeats)  # noqa: B023
            print(
                f"{name}: {options.images / written:.0f} images/s written, opened in "
                f"{1000 * opened:.0f} ms, first search {1000 * first:.0f} ms, next "
                f"{1000 * later:.1f} ms ({later / floor:.1f} times reading), "
                f"{index.info()['bytes'] / options.images:.0f} bytes an image"
            )
            index.close()


if __name__ == "__main__":
    run_command(main)
