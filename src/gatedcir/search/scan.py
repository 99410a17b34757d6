"""The best stored features of a single query. They are read once, where they lie (FAISS).

A product in half precision would round the scores, and a product in float32 needs a copy of the
features. FAISS' scanner converts the numbers inside its loop, so a search takes little more time
than reading. Shapes: N images of a file, n chosen ones, Q query tokens, E embedding width,
F tokens fetched.
"""

from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch

from gatedcir.benchmarks.ranks import Indices
from gatedcir.search.index import Floats

_FAISS: Any = faiss  # its types leave some names out
_AT_ONCE = 1 << 24  # bytes that a thread scans before it takes the next ones
_THREAD = 1 << 23  # bytes for which one more thread pays


class Chosen(NamedTuple):
    """Images of one file."""

    tokens: torch.Tensor
    """[N, Q, E], contiguous."""
    numbers: Indices
    """[N]"""
    rows: Indices
    """[n], ascending: which of them are ranked."""

    def features(self) -> torch.Tensor:
        """[n, Q, E]"""
        if len(self.rows) == len(self.numbers):
            return self.tokens
        return self.tokens[torch.from_numpy(self.rows)]


def best_tokens(query: Floats, chosen: Sequence[Chosen], fetch: int) -> tuple[Floats, Indices]:
    """The `fetch` best inner products of a query [E] with tokens: scores [F] and their images [F].

    The best come first. There are at least as many tokens, and all scores are finite.

    >>> tokens = torch.tensor([[[1, 0], [0, 1]], [[3, 0], [0, 0]]], dtype=torch.float16)
    >>> some = Chosen(tokens, np.array([4, 7]), np.array([0, 1]))
    >>> scores, images = best_tokens(np.array([1, 0], np.float32), [some], 2)
    >>> scores.tolist(), images.tolist()
    ([3.0, 1.0], [7, 4])
    """
    runs = [run for some in chosen for run in _runs(some)]
    size = sum(some.tokens[0].nbytes * len(some.rows) for some in chosen)
    todo = iter(enumerate(runs))  # the threads share it

    def work(_: int) -> tuple[Floats, Indices]:
        scanner = _scanner(query, chosen[0].tokens.dtype)
        scores = np.full(fetch, -np.inf, dtype=np.float32)  # [F], a heap of FAISS
        places = np.full(fetch, -1, dtype=np.int64)  # [F], a run << 32 | its token
        heap = faiss.swig_ptr(scores), faiss.swig_ptr(places)
        for number, (address, images) in todo:
            scanner.set_list(number, 0.0)
            codes = _FAISS.cast_integer_to_uint8_ptr(address)
            scanner.scan_codes(len(images) * tokens_per_image, codes, None, *heap, fetch)
        _FAISS.InvertedListScanner.__swig_destroy__(scanner)  # its wrapper does not own it
        return scores, places

    tokens_per_image = chosen[0].tokens.shape[1]
    threads = min(torch.get_num_threads(), 1 + size // _THREAD)
    if threads == 1:
        found = [work(0)]
    else:
        with ThreadPool(threads) as pool:
            found = pool.map(work, range(threads))
    scores, places = (np.concatenate(each) for each in zip(*found, strict=True))
    order = np.argsort(-scores, kind="stable")[:fetch]
    scores, places = scores[order], places[order]
    images = np.concatenate([images for _, images in runs])
    first = np.cumsum([0] + [len(images) for _, images in runs])[places >> 32]
    return scores, images[first + (places & 0xFFFFFFFF) // tokens_per_image]


def best_of_each(query: Floats, some: Chosen) -> Floats:
    """The best inner product of a query [E] with any token of each image: [n].

    >>> tokens = torch.tensor([[[1, 0], [0, 1]], [[3, 0], [0, 0]]], dtype=torch.float16)
    >>> some = Chosen(tokens, np.array([4, 7]), np.array([1]))
    >>> best_of_each(np.array([1, 0], np.float32), some).tolist()
    [3.0]
    """
    scanner = _scanner(query, some.tokens.dtype)
    scores = np.full(len(some.rows), -np.inf, dtype=np.float32)  # [n], a heap of one each
    place = faiss.swig_ptr(np.empty(1, dtype=np.int64))
    codes = some.tokens.data_ptr() + some.rows * some.tokens[0].nbytes
    heaps = scores.ctypes.data + np.arange(len(scores)) * scores.itemsize
    for code, heap in zip(codes.tolist(), heaps.tolist(), strict=True):
        scanner.scan_codes(
            some.tokens.shape[1],
            _FAISS.cast_integer_to_uint8_ptr(code),
            None,
            _FAISS.cast_integer_to_float_ptr(heap),
            place,
            1,
        )
    _FAISS.InvertedListScanner.__swig_destroy__(scanner)
    return scores


def _runs(some: Chosen) -> list[tuple[int, Indices]]:
    """The address and the images of every run of rows that lie next to each other."""
    stride = some.tokens[0].nbytes
    rows = some.rows
    step = max(1, _AT_ONCE // stride)
    starts = np.union1d(np.flatnonzero(np.diff(rows) != 1) + 1, np.arange(0, len(rows), step))
    ends = np.append(starts[1:], len(rows))
    addresses = some.tokens.data_ptr() + rows[starts] * stride
    images = some.numbers[rows]
    return [
        (address, images[start:end])
        for address, start, end in zip(
            addresses.tolist(), starts.tolist(), ends.tolist(), strict=True
        )
    ]


def _scanner(query: Floats, dtype: torch.dtype) -> Any:
    """FAISS' scanner for tokens of a precision. It belongs to one thread."""
    dim = len(query)
    flat = faiss.IndexFlatIP(dim)
    index: Any
    if dtype == torch.float16:
        form = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIVFScalarQuantizer(flat, dim, 1, form, faiss.METRIC_INNER_PRODUCT, False)
    else:
        index = faiss.IndexIVFFlat(flat, dim, 1, faiss.METRIC_INNER_PRODUCT)
    scanner = index.get_InvertedListScanner(True, None, None)
    scanner.index = index  # which it refers to
    scanner.set_query(faiss.swig_ptr(query))
    return scanner
