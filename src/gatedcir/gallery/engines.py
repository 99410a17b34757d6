"""Where the images of a folder are encoded, by the name in `--engine`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gatedcir.gallery.ray_engine import encode
from gatedcir.gallery.retriever import Retriever
from gatedcir.search.index import Floats

Encoded = Iterator[tuple[list[Path], Floats, dict[Path, str]]]
"""As `Retriever.encode_files` gives them."""


def _here(
    retriever: Retriever, files: Sequence[Path], *, num_workers: int, workers: int | None
) -> Encoded:
    return retriever.encode_files(files, num_workers=num_workers)


ENGINES: dict[str, Callable[..., Encoded]] = {"process": _here, "ray": encode}
