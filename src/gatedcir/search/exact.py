"""Exact search for images that are stored as several token features each (FAISS).

Legend: M queries, G gallery images, K kept, B batch, Q query tokens, E embedding width,
F tokens fetched per query.
"""

from typing import Any

import faiss
import numpy as np
import torch

from gatedcir.benchmarks.ranks import Indices
from gatedcir.errors import UserError
from gatedcir.search.index import Features, Floats

_FIRST_FETCH = 1024
_GPU_MAX_FETCH = 2048  # the largest k of FAISS' GPU indexes
_QUERIES_AT_ONCE = 64  # while the features of their images are gathered
_BLOCK_ENTRIES = 1 << 21  # (query, token) pairs held at once while fetching
_BLOCK_QUERIES, _BLOCK_ROWS = 512, 4096  # queries and tokens multiplied at once


class TokenIndex:
    """Images ranked by the best inner product of a query with any of their token features.

    This is late interaction with a single query vector: the similarity of a query [E] to an
    image [Q, E] is the maximum over its Q tokens. All tokens are in one flat FAISS index, and a
    search is exact. On a GPU, FAISS fetches the best tokens, and the first one of every image is
    kept. More tokens are fetched until the answer is certain. On a CPU, sorting a thousand tokens a
    query costs as much as computing their products. There, all tokens are multiplied block by
    block, and only the maximum of each image is kept.

    Args:
        dim: E.
        tokens_per_image: Q.
        on_gpu: keep the features on the first GPU. Without a GPU, or with a FAISS that was
            built without GPUs, the index is on the CPU.

    Raises:
        ValueError: `dim` or `tokens_per_image` is below 1.

    >>> index = TokenIndex(dim=2, tokens_per_image=2)
    >>> index.add(np.array([[[1, 0], [0, 1]], [[3, 0], [0, 0]]], dtype=np.float32))
    >>> scores, images = index.search(np.array([[1, 0], [0, 1]], dtype=np.float32), k=3)
    >>> images.tolist()
    [[1, 0, -1], [0, 1, -1]]
    >>> scores.tolist()
    [[3.0, 1.0, -inf], [1.0, 0.0, -inf]]
    """

    def __init__(self, *, dim: int, tokens_per_image: int, on_gpu: bool = False) -> None:
        if dim < 1 or tokens_per_image < 1:
            raise ValueError(f"dim ({dim}) and tokens_per_image ({tokens_per_image}) start at 1")
        self.dim = dim
        self.tokens_per_image = tokens_per_image
        self._tokens: Any = faiss.IndexFlatIP(dim)
        self._is_on_gpu = on_gpu and faiss.get_num_gpus() > 0
        if self._is_on_gpu:
            self._resources = faiss.StandardGpuResources()
            self._tokens = faiss.index_cpu_to_gpu(self._resources, 0, self._tokens)

    def __len__(self) -> int:
        return self._tokens.ntotal // self.tokens_per_image

    def add(self, features: Features) -> None:
        """Append a batch of images [B, Q, E]. The first image added has the gallery index 0.

        Raises:
            ValueError: the features are not [B, Q, E].
            UserError: a feature is NaN or infinite.
        """
        if features.ndim != 3 or features.shape[1:] != (self.tokens_per_image, self.dim):
            expected = f"[B, {self.tokens_per_image}, {self.dim}]"
            raise ValueError(f"features are {tuple(features.shape)}, not {expected}")
        self._tokens.add(as_rows(features, self.dim, "gallery"))  # [B * Q, E]

    def search(self, queries: Features, k: int) -> tuple[Floats, Indices]:
        """The `k` best images of every query: (scores [M, k], gallery indices [M, k]).

        Rows are ordered by score, equal scores by gallery index. If `k` exceeds the gallery,
        the rest of a row is -inf and -1.

        Raises:
            ValueError: the queries are not [M, E], or `k` is below 1.
            UserError: a query is NaN or infinite.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(f"queries are {tuple(queries.shape)}, not [M, {self.dim}]")
        if k < 1:
            raise ValueError(f"k is {k}, but at least one image must be asked for")
        rows = as_rows(queries, self.dim, "query")  # [M, E]
        scores = np.full((len(rows), k), -np.inf, dtype=np.float32)  # [M, k]
        images = np.full((len(rows), k), -1, dtype=np.int64)  # [M, k]
        kept = min(k, len(self))
        if kept:
            search = self._fetch if self._is_on_gpu else self._multiply
            search(rows, scores[:, :kept], images[:, :kept])
        return scores, images

    def _multiply(self, rows: Floats, scores: Floats, images: Indices) -> None:
        """Fill in scores and images [M, K] of the queries [M, E] by products with all tokens."""
        flat = faiss.rev_swig_ptr(self._tokens.get_xb(), self._tokens.ntotal * self.dim)
        tokens = torch.from_numpy(flat).view(len(self), self.tokens_per_image, self.dim)
        for start in range(0, len(rows), _BLOCK_QUERIES):
            some = slice(start, start + _BLOCK_QUERIES)
            found = similarities(torch.from_numpy(rows[some]), tokens)  # [m, G]
            best, which = first_of_equals(found, scores.shape[1])
            scores[some], images[some] = best.numpy(), which.numpy()

    def _fetch(self, rows: Floats, scores: Floats, images: Indices) -> None:
        """Fill in scores and images [M, K] of the queries [M, E] by FAISS' search for tokens."""
        kept, total, tokens = scores.shape[1], self._tokens.ntotal, self._tokens
        fetch = min(total, max(_FIRST_FETCH, kept))
        pending = np.arange(len(rows))  # queries without a certain answer
        while pending.size:
            if tokens is self._tokens and fetch > _GPU_MAX_FETCH:
                tokens = faiss.index_gpu_to_cpu(self._tokens)
                # From this many queries on, FAISS multiplies matrices. With its own threshold,
                # batches of medium size are many times slower.
                faiss.cvar.distance_compute_blas_threshold = 20
            unfinished = []
            step = max(1, _BLOCK_ENTRIES // fetch)
            for start in range(0, len(pending), step):
                block = pending[start : start + step]  # [m]
                found, ids = tokens.search(rows[block], fetch)  # [m, F], [m, F]
                best, which = distinct_images(found, ids // self.tokens_per_image, kept)
                # An image not seen yet scores at most as much as the last token seen. With an
                # equal score it could come first by gallery index. So we compare strictly.
                certain = best[:, -1] > found[:, -1]  # [m]
                if fetch == total:
                    certain[:] = True
                scores[block[certain]] = best[certain]
                images[block[certain]] = which[certain]
                unfinished.append(block[~certain])
            pending = np.concatenate(unfinished)
            fetch = min(total, 2 * fetch)

    def similarity(self, queries: Features, images: Indices) -> Floats:
        """The similarity of every query [M, E] to chosen images [M, S]: [M, S].

        -inf where an image is -1. Raises UserError if a query is NaN or infinite.
        """
        rows = as_rows(queries, self.dim, "query")  # [M, E]
        found = np.empty(images.shape, dtype=np.float32)  # [M, S]
        for start in range(0, len(rows), _QUERIES_AT_ONCE):
            some = slice(start, start + _QUERIES_AT_ONCE)
            first = images[some].clip(min=0)[..., None] * self.tokens_per_image
            ids = first + np.arange(self.tokens_per_image)  # [m, S, Q]
            features = self._tokens.reconstruct_batch(ids.ravel()).reshape(*ids.shape, self.dim)
            products = features @ rows[some, None, :, None]  # [m, S, Q, 1]
            found[some] = products.max((-1, -2))
        found[images < 0] = -np.inf
        return found


def similarities(queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The best inner product with any token of each image: [m, E], [G, Q, E] -> [m, G] float32.

    Tokens may be in half precision. They are multiplied in float32, block by block.

    >>> tokens = torch.tensor([[[1, 0], [0, 1]], [[3, 0], [0, 0]]], dtype=torch.float16)
    >>> similarities(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), tokens)
    tensor([[1., 3.],
            [1., 0.]])
    """
    width = max(1, _BLOCK_ROWS // tokens.shape[1])  # images multiplied at once
    return torch.cat(
        [
            (queries @ block.flatten(0, 1).float().T).unflatten(1, block.shape[:2]).amax(-1)
            for block in tokens.split(width)
        ],
        dim=1,
    )


def first_of_equals(scores: torch.Tensor, kept: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `kept` best columns of each row [m, G], equal ones by number: scores and columns.

    >>> first_of_equals(torch.tensor([[1.0, 3.0, 1.0, 3.0]]), 3)[1]
    tensor([[1, 3, 0]])
    """
    which = scores.topk(kept).indices.sort(1).values  # [m, kept]
    best, order = scores.gather(1, which).sort(dim=1, descending=True, stable=True)
    which = which.gather(1, order)
    # If the last one kept has equals that were not kept, topk took any of them.
    cut = (scores >= best[:, -1:]).sum(1) > kept  # [m]
    if cut.any():
        tied = scores[cut].sort(dim=1, descending=True, stable=True)
        best[cut], which[cut] = tied.values[:, :kept], tied.indices[:, :kept]
    return best, which


def distinct_images(scores: Floats, images: Indices, kept: int) -> tuple[Floats, Indices]:
    """The `kept` best distinct images of descending token lists [m, F], both [m, kept].

    A row with fewer distinct images ends in scores of -inf.

    >>> scores = np.array([[9, 8, 8, 5]], dtype=np.float32)
    >>> best, which = distinct_images(scores, np.array([[4, 4, 2, 1]]), 2)
    >>> best.tolist(), which.tolist()
    ([[9.0, 8.0]], [[4, 2]])
    """
    # The sort is stable, so an image's tokens stay in descending order of score. The first token of
    # each run is its image's maximum.
    by_image = images.argsort(axis=1, kind="stable")  # [m, F]
    images = np.take_along_axis(images, by_image, axis=1)  # [m, F]
    negated = -np.take_along_axis(scores, by_image, axis=1)  # [m, F]
    negated[:, 1:][images[:, 1:] == images[:, :-1]] = np.inf
    # Stable again: equal scores stay in the order of their images.
    order = negated.argsort(axis=1, kind="stable")[:, :kept]  # [m, kept]
    best = -np.take_along_axis(negated, order, axis=1)  # [m, kept]
    return best, np.take_along_axis(images, order, axis=1)


def as_rows(features: Features, width: int, name: str) -> Floats:
    """[..., width] of any device and precision -> contiguous float32 rows [n, width]."""
    if isinstance(features, torch.Tensor):
        features = features.detach().float().cpu().numpy()
    rows = np.ascontiguousarray(features, dtype=np.float32).reshape(-1, width)  # [n, width]
    if not np.isfinite(rows).all():
        raise UserError(
            f"The {name} features hold NaN or infinity, so nothing can be ranked: "
            "use a checkpoint from before the training diverged, or compute in float32."
        )
    return rows
