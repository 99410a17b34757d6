"""Rates at which files become the model's input."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from bench import limits, seconds
from PIL import Image
from torch import Tensor

from gatedcir.benchmarks.resized import copy_images
from gatedcir.data.transforms import Transform, make_transform
from gatedcir.evaluation.report import table

if TYPE_CHECKING:
    from bench_reading import Options


def report(options: "Options") -> None:
    """Time the three ways and say how far they differ from the first."""
    print(limits(torch.device("cpu")))
    whole, draft = (
        make_transform(
            "targetpad", size=options.size, mean=(0.0,) * 3, std=(1 / 255,) * 3, draft=draft
        )
        for draft in (False, True)
    )
    with tempfile.TemporaryDirectory() as folder:
        jpegs, pngs = Path(folder, "jpeg"), Path(folder, "png")
        jpegs.mkdir()
        files = [_picture(jpegs / f"{number}.jpg", options) for number in range(options.images)]
        places = {file: Path(file.stem + ".png") for file in files}
        copies = [copy.path for copy in copy_images(pngs, places, whole, num_workers=0)]
        found = [
            (name, *_measure(paths, transform, options.repeats))
            for name, paths, transform in (
                ("in full", files, whole),
                ("drafts", files, draft),
                ("copies", copies, whole),
            )
        ]
    rows = []
    _, slowest, expected = found[0]
    for name, time, pixels in found:
        off = (pixels - expected).abs()
        rows.append(
            [
                name,
                f"{options.images / time:.0f}",
                f"{slowest / time:.1f}",
                f"{off.max():.0f}",
                f"{off.mean():.2f}",
                f"{100 * (off > 1).float().mean():.0f}%",
            ]
        )
    print(f"{options.width} x {options.height} px to {options.size}")
    head = ["", "images/s", "ratio", "largest difference", "mean", "more than 1 of 255"]
    print(table(head, rows))


def _picture(path: Path, options: "Options") -> Path:
    """Fine noise on coarse noise, as a JPEG."""
    rng = np.random.default_rng(int(path.stem))
    shape = options.height, options.width, 3
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((options.width, options.height)), dtype=np.float32)
    pixels = smooth + rng.normal(0, 12, shape)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return path


def _measure(files: list[Path], transform: Transform, repeats: int) -> tuple[float, Tensor]:
    """Seconds to read all files, and the model's input: [N, 3, size, size]."""

    def read() -> Tensor:
        return torch.stack([transform(transform.open(file)) for file in files])

    return seconds(read, repeats=repeats), read().round()
