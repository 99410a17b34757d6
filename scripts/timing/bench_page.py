"""Time the page's answers over an index: one after the other, and many at once with its memory."""

import socket
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
import torch
from PIL import Image

from gatedcir.gallery.indexing import Indexing
from gatedcir.gallery.retriever import Retriever
from gatedcir.options.parsing import parse
from gatedcir.page.engine import Engine
from gatedcir.page.shelf import UPLOADS, Kept
from gatedcir.page.site import Site
from gatedcir.search.index import Floats

_HALF = b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\nabc"


@dataclass(frozen=True)
class Options:
    """How much."""

    model_path: str = "tiny"
    """The model."""
    images: int = 5000
    """Images of the index, of random colours."""
    requests: int = 200
    """Requests at once."""
    slow: int = 100
    """Clients that send half of an upload and never go on, while one other asks."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print milliseconds and MB."""
    options = parse(Options, argv, description=__doc__)
    import uvicorn

    from gatedcir.page.server import make_app

    with tempfile.TemporaryDirectory() as folder:
        site = _site(options, Path(folder))
        server = uvicorn.Server(uvicorn.Config(make_app(site), port=0, log_level="error"))
        threading.Thread(target=server.run, daemon=True).start()
        while not server.started:
            time.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        pictures = [picture for picture, _ in site.examples(50)]

        def ask(number: int) -> float:
            picture = pictures[number % len(pictures)]
            link = f"{address}/query.json?ref={picture}&text=make+it+colour+{number}&k=12"
            start = time.perf_counter()
            with urllib.request.urlopen(link, timeout=120) as answer:
                assert answer.status == 200
                answer.read()
            return time.perf_counter() - start

        ask(0)
        alone = [ask(number) for number in range(1, 21)]
        print(f"{options.images} images, {torch.get_num_threads()} threads, {options.model_path}")
        print(
            f"one after the other: median {1e3 * statistics.median(alone):.0f} ms, "
            f"longest {1e3 * max(alone):.0f} ms"
        )
        with ExitStack() as stack:
            for _ in range(options.slow):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                client.sendall(_HALF)
            beside = [ask(number) for number in range(21, 41)]
        print(
            f"next to {options.slow} slow clients: median {1e3 * statistics.median(beside):.0f} "
            f"ms, longest {1e3 * max(beside):.0f} ms"
        )
        before, most = psutil.Process().memory_info().rss, 0
        start = time.perf_counter()
        with ThreadPoolExecutor(options.requests) as pool:
            waiting = [pool.submit(ask, number) for number in range(options.requests)]
            while not all(one.done() for one in waiting):
                most = max(most, psutil.Process().memory_info().rss)
                time.sleep(0.02)
            each = [one.result() for one in waiting]
        print(
            f"{options.requests} at once: all answered in {time.perf_counter() - start:.1f} s, "
            f"longest {max(each):.1f} s, memory {before / 1e6:.0f} -> {most / 1e6:.0f} MB at most"
        )
        server.should_exit = True


def _site(options: Options, folder: Path) -> Site:
    """A site over pictures of random colours.

    Their features are random too: for the time, only their number counts.
    """
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(options.images):
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(folder / "images" / f"{number}.png")
    retriever = Retriever.from_pretrained(options.model_path)
    tokens, dim, _ = retriever.form()

    def drawn(pixels: Sequence[torch.Tensor]) -> Floats:
        found = rng.standard_normal((len(pixels), tokens, dim), dtype=np.float32)
        return found / np.linalg.norm(found, axis=2, keepdims=True)

    at = Indexing.at(folder / "index", retriever)
    with at as indexing, patch.object(retriever, "encode_pixels", drawn):
        indexing.sync(folder / "images")
    uploads = Kept[bytes](UPLOADS, len)
    return Site([Engine(folder / "index", retriever, uploads=uploads)], uploads)


if __name__ == "__main__":
    from gatedcir.errors import run_command

    run_command(main)
