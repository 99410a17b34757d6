"""Images encoded on many machines, by Ray Data (the extra `ray`).

Each worker is an actor with a model of its own. All machines must see the files and the model. A
worker that is killed is started again, and its images are encoded by another.
Shapes: B images, Q query tokens, E embedding width.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gatedcir.errors import UserError, reason_of
from gatedcir.gallery.retriever import AT_ONCE, Retriever
from gatedcir.search.index import Floats


class Encoder:
    """A worker: its model, for batches of files."""

    def __init__(self, name: str, device: str, identity: Mapping[str, str], threads: int) -> None:
        self._retriever = Retriever.from_pretrained(name, device=device)
        self._threads = threads
        if self._retriever.identity != identity:
            raise UserError(f"{name} is another model on a worker; give a path that all share.")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Files -> their features [B, Q, E], or why one cannot be read."""
        files = [Path(os.fsdecode(path)) for path in batch["path"]]
        features = np.zeros((len(files), *self._retriever.form()[:2]), np.float32)
        reasons = np.full(len(files), "", dtype=object)
        place = {file: row for row, file in enumerate(files)}
        for good, found, broken in self._retriever.encode_files(files, num_workers=self._threads):
            features[[place[file] for file in good]] = found
            for file, why in broken.items():
                reasons[place[file]] = why
        return {"path": batch["path"], "features": features, "why": reasons}


def encode(
    retriever: Retriever, files: Sequence[Path], *, num_workers: int, workers: int | None
) -> Iterator[tuple[list[Path], Floats, dict[Path, str]]]:
    """As `Retriever.encode_files`, in any order, by a model on every worker of a Ray cluster.

    The cluster is that of RAY_ADDRESS, or this machine.

    Args:
        retriever: its name and identity are those of the workers' models.
        files: to encode.
        num_workers: threads of a worker that read images.
        workers: how many. None: one for each GPU of the cluster, or else for each core.

    Raises:
        UserError: Ray is not installed, or the cluster does not answer, or a worker has another
            model.
    """
    ray = ray_module()
    begun = not ray.is_initialized()
    try:
        if begun:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        wanted = workers or gpus or int(there.get("CPU", 1))
        device = "cuda" if gpus else "cpu"
        given = (retriever.name, device, dict(retriever.identity), num_workers)
        ray.data.DataContext.get_current().enable_progress_bars = False
        named = [{"path": os.fsencode(file)} for file in files]
        blocks = max(1, min(len(files) // AT_ONCE, 16 * wanted))
        encoded = ray.data.from_items(named, override_num_blocks=blocks).map_batches(
            Encoder,
            fn_constructor_args=given,
            batch_size=AT_ONCE,
            concurrency=wanted,
            num_gpus=1 if gpus else 0,
        )
        for batch in encoded.iter_batches(batch_size=None):
            paths = [Path(os.fsdecode(path)) for path in batch["path"]]
            good = [row for row, why in enumerate(batch["why"]) if not why]
            broken = {p: str(why) for p, why in zip(paths, batch["why"], strict=True) if why}
            yield [paths[row] for row in good], batch["features"][good], broken
    except ray.exceptions.RayError as error:
        raise UserError(
            f"Ray could not encode all images ({_cause(error)}); what was encoded is kept, and the "
            "same command goes on."
        ) from error
    except ConnectionError as error:
        raise UserError(
            f"the Ray cluster does not answer ({reason_of(error)}); check RAY_ADDRESS."
        ) from None
    finally:
        if begun:
            ray.shutdown()


def ray_module() -> Any:
    """The module. UserError if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError(
            "Ray is needed and not installed; run pip install 'gatedcir[ray]', or encode here."
        ) from None
    return ray


def _cause(error: Exception) -> str:
    """The last line of what a worker said."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
