"""The check that a folder can be a dataset in its published layout, with a clear error."""

from pathlib import Path

from gatedcir.benchmarks.base import Benchmark
from gatedcir.benchmarks.registry import BENCHMARKS
from gatedcir.data.image_files import Listings
from gatedcir.errors import UserError


def check_layout(dataset: Benchmark, root: Path) -> None:
    """Look at a dataset's folder before its files are read.

    Raises:
        UserError: it is a file, is not there, holds another dataset, holds the dataset one folder
            further down, or holds photos only.
    """
    sources = ""
    if dataset.origin:
        drawn = ", and gatedcir synthetic draws a small one for trials" if dataset.drawn else ""
        sources = f" (it comes from {dataset.origin}{drawn})"
    if root.is_file():
        raise UserError(
            f"--data-path {root} is a file; name the folder that holds {dataset.name} in its "
            f"published layout{sources}."
        )
    if not root.exists():
        raise UserError(
            f"there is no folder {root}; name that of {dataset.name} with --data-path{sources}."
        )
    if not dataset.sign or (root / dataset.sign).is_dir():
        return
    for name, other in BENCHMARKS.items():
        if other is not dataset and other.sign and (root / other.sign).is_dir():
            raise UserError(
                f"{root} holds {name} and not {dataset.name}; pass --dataset {name}, or name "
                "another folder with --data-path."
            )
    inner = sorted(place for place in root.iterdir() if (place / dataset.sign).is_dir())
    if inner:
        raise UserError(f"{root} holds {dataset.name} in a folder; pass --data-path {inner[0]}.")
    photos = sum(map(len, Listings().images(root).values()))
    if photos:
        raise UserError(
            f"{root} holds {photos} images and no annotations of {dataset.name}, which say what to "
            f"search for; name the dataset's folder with --data-path{sources}."
        )
