"""Time queries and indexing by each way to compute the model: PyTorch and ONNX, ratios in one run.

`--recall` also measures the recall of scenes, and `--blocks` times a ViT-g.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench import seconds
from PIL import Image

from gatedcir.assemble.data import load_data
from gatedcir.assemble.model import open_trained
from gatedcir.data.triplets import evaluation_text
from gatedcir.device import Device
from gatedcir.errors import run_command
from gatedcir.gallery.onnx_folder import export_onnx
from gatedcir.gallery.retriever import Retriever
from gatedcir.models import onnx_graphs
from gatedcir.models.onnx_model import inputs_of, session
from gatedcir.options.config import DataConfig
from gatedcir.options.parsing import parse
from gatedcir.synthetic.layouts import write_cirr

CLIENTS = (1, 4, 16)
_TEXTS = ("make it red", "the same with two dogs on the grass", "larger and without the circle")


@dataclass(frozen=True)
class Options:
    """How much."""

    model_path: str = "tiny"
    """The model that is exported and asked."""
    images: int = 256
    """Image files of the index."""
    queries: int = 100
    """Queries, by each number of clients."""
    recall: int = 0
    """Validation queries of scenes whose recall is measured too."""
    blocks: int = 0
    """Time only the image graph of a ViT-g of random weights with so many blocks, in float32 and 8
    bits. All 39 take 20 GB of memory."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print rates, milliseconds and recall."""
    options = parse(Options, argv, description=__doc__)
    if options.blocks:
        _large(options.blocks)
        return
    print(f"{options.model_path}, {torch.get_num_threads()} threads, {options.images} images")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _draw(folder / "images", options.images)
        ways = _ways(options.model_path, folder)
        Retriever.from_pretrained(options.model_path, device="cpu").index(
            folder / "images", to=folder / "index"
        ).close()
        for name, make in ways.items():
            retriever = make()
            _rates(name, retriever, folder)
            _latencies(retriever, folder, options.queries)
            if options.recall:
                _recall(retriever, folder / "scenes", options.recall)


def _ways(name: str, folder: Path) -> dict[str, Callable[[], Retriever]]:
    """Every way to compute the model."""

    def torch_in(precision: torch.dtype | None) -> Retriever:
        found = Retriever.from_pretrained(name, device="cpu")
        for tower in found.model.towers:  # type: ignore[union-attr]
            tower.set_tower_dtype(precision or torch.float32)
        found.runs_on = Device(torch.device("cpu"), precision)
        return found

    def compiled() -> Retriever:
        found = torch_in(None)
        for encoder in ("encode_target", "encode_query"):
            whole = torch.compile(getattr(found.model, encoder), dynamic=True)
            setattr(found.model, encoder, whole)
        return found

    def graphs(*, int8: bool) -> Retriever:
        target = folder / ("int8" if int8 else "fp32")
        export_onnx(name, target, int8=int8)
        return Retriever.from_pretrained(target)

    return {
        "fp32": lambda: torch_in(None),
        "bf16": lambda: torch_in(torch.bfloat16),
        "compiled": compiled,
        "onnx": lambda: graphs(int8=False),
        "onnx int8": lambda: graphs(int8=True),
    }


def _draw(folder: Path, count: int) -> None:
    """JPEGs of 500 x 375 pixels, as large as those of CIRR."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((500, 375)).save(folder / f"{number}.jpg")


def _rates(name: str, retriever: Retriever, folder: Path) -> None:
    """Images a second of the model alone, and from files."""
    files = sorted((folder / "images").iterdir())
    pixels = [retriever.transform(retriever.transform.open(file)) for file in files[:64]]
    alone = 64 / seconds(lambda: retriever.encode_pixels(pixels), repeats=5)

    def read() -> None:
        for _ in retriever.encode_files(files, num_workers=2):
            pass

    indexing = len(files) / seconds(read, repeats=3)
    print(f"{name:10} forward {alone:6.0f} images/s, indexing {indexing:6.0f} = ", end="")
    print(f"{100 * indexing / alone:.0f}%", flush=True)


def _latencies(retriever: Retriever, folder: Path, queries: int) -> None:
    """Milliseconds of a whole query, picture and text to hits, by the number of clients."""
    files = sorted((folder / "images").iterdir())
    gallery = retriever.open(folder / "index")

    def ask(number: int) -> float:
        start = time.perf_counter()
        gallery.search(files[number % len(files)], _TEXTS[number % len(_TEXTS)], rerank=0)
        return 1e3 * (time.perf_counter() - start)

    list(map(ask, range(10)))
    for clients in CLIENTS:
        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            times = list(pool.map(ask, range(queries)))
        rate = queries / (time.perf_counter() - start)
        p50, p99 = statistics.median(times), float(np.percentile(times, 99))
        print(f"{'':10} {clients:2} clients: p50 {p50:6.1f} ms, p99 {p99:6.1f}, {rate:5.0f}/s")
    gallery.close()


def _recall(retriever: Retriever, folder: Path, count: int) -> None:
    """Recall of the validation queries of scenes, without their references."""
    if not folder.exists():
        list(write_cirr(folder, {"train": 1, "val": count, "test": 1}, seed=5))
    [[split]] = load_data(DataConfig("CIRR", data_path=folder), "val")
    names = list(split.gallery)
    files = [split.paths[name] for name in names]
    features = np.concatenate([some for _, some, _ in retriever.encode_files(files, num_workers=2)])
    queries = split.triplets
    found = retriever.encode_query(
        [split.paths[query.reference] for query in queries],
        [evaluation_text(query.captions) for query in queries],
    )
    scores = np.einsum("me,gqe->mgq", found, features).max(-1)
    hits = []
    for query, row in zip(queries, scores, strict=True):
        assert query.target is not None
        row[names.index(query.reference)] = -1
        hits.append(int((row > row[names.index(query.target)]).sum()))
    ranks = np.array(hits)
    shown = ", ".join(f"R@{k} {100 * (ranks < k).mean():.2f}" for k in (1, 5, 10))
    print(f"{'':10} {len(ranks)} queries of scenes: {shown}", flush=True)


def _large(blocks: int) -> None:
    """Images a second of a ViT-g's image graph."""
    model, *_ = open_trained("random-vit-g")
    del model.backbone.vision_model.encoder.layers[blocks:]
    pixels = torch.randn(2, 3, model.backbone.image_size, model.backbone.image_size)
    module, shapes = onnx_graphs._Image(model).eval(), [{0: torch.export.Dim("batch")}]
    with torch.inference_mode():
        rates = {"PyTorch fp32": 2 / seconds(lambda: module(pixels), repeats=3)}
    for name in ("onnx", "onnx int8"):
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "image.onnx"
            onnx_graphs._write(file, module, (pixels,), shapes, int8="int8" in name)
            graph, given = session(file), inputs_of(pixels)
            rates[name] = 2 / seconds(partial(graph.run, None, given), repeats=3)
            del graph
    for name, rate in rates.items():
        print(
            f"{name:12} {rate:6.2f} images/s = {rate / rates['PyTorch fp32']:.2f} of PyTorch fp32"
        )


if __name__ == "__main__":
    run_command(main)
