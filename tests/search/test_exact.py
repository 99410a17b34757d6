"""The token index against a full matrix product and a sort by (score, gallery index)."""

import faiss
import numpy as np
import pytest
import torch

from gatedcir.errors import UserError
from gatedcir.search import exact as module
from gatedcir.search.exact import TokenIndex


def build(features, **settings):
    index = TokenIndex(dim=features.shape[2], tokens_per_image=features.shape[1], **settings)
    index.add(features)
    return index


def as_on_a_gpu(index):
    """The same index, searched by fetching tokens; short fetches need no GPU for that."""
    index._is_on_gpu = True
    return index


def slow_search(features, queries, k):
    similarity = np.einsum("gqe,me->mgq", features, queries).max(axis=2)  # [M, G]
    images = np.full((len(queries), k), -1)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for row, values in enumerate(similarity.tolist()):
        order = sorted(range(len(values)), key=lambda image: (-values[image], image))[:k]
        images[row, : len(order)] = order
        scores[row, : len(order)] = [values[image] for image in order]
    return scores, images


def assert_exact(features, queries, k, index=None):
    scores, images = (index or build(features)).search(queries, k)
    expected_scores, expected_images = slow_search(features, queries, k)
    assert scores.dtype == np.float32 and images.dtype == np.int64
    assert np.array_equal(images, expected_images)
    assert np.array_equal(scores, expected_scores)


@pytest.mark.parametrize("seed", range(12))
def test_random_small_integers_full_of_ties(seed, monkeypatch):
    # Products of small integers are exact, so equal scores are equal in every summation order.
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(module, "_FIRST_FETCH", int(rng.integers(1, 40)))
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", int(rng.integers(1, 400)))
    monkeypatch.setattr(module, "_BLOCK_QUERIES", int(rng.integers(1, 50)))
    monkeypatch.setattr(module, "_BLOCK_ROWS", int(rng.integers(1, 400)))
    for _ in range(12):
        gallery, tokens, dim = (int(rng.integers(1, high)) for high in (70, 9, 7))
        features = rng.integers(-2, 3, (gallery, tokens, dim)).astype(np.float32)
        copies = rng.integers(0, gallery, gallery // 2)
        features[rng.integers(0, gallery, len(copies))] = features[copies]
        queries = rng.integers(-2, 3, (int(rng.integers(1, 45)), dim)).astype(np.float32)
        for k in (1, int(rng.integers(1, gallery + 1)), gallery, gallery + 3):
            assert_exact(features, queries, k)
            assert_exact(features, queries, k, as_on_a_gpu(build(features)))


@pytest.mark.parametrize("on_gpu", [False, True])
def test_real_valued_features(on_gpu):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, 8, 16)).astype(np.float32)
    queries = rng.standard_normal((50, 16)).astype(np.float32)
    index = as_on_a_gpu(build(features)) if on_gpu else build(features)
    scores, images = index.search(queries, 20)
    expected_scores, expected_images = slow_search(features, queries, 21)
    clear = (-np.diff(expected_scores, axis=1)).min(axis=1) > 1e-5  # [M]
    assert clear.sum() > 25
    assert np.array_equal(images[clear], expected_images[clear, :20])
    np.testing.assert_allclose(scores, expected_scores[:, :20], rtol=1e-6, atol=1e-6)


def test_one_image_and_equal_features():
    assert_exact(np.ones((1, 4, 2), np.float32), np.ones((3, 2), np.float32), 1)
    assert_exact(np.ones((1, 4, 2), np.float32), np.ones((3, 2), np.float32), 5)
    # 2400 equal tokens: only the whole gallery shows that the first images come first.
    assert_exact(np.ones((600, 4, 2), np.float32), np.ones((30, 2), np.float32), 7)


def test_the_best_thousand_tokens_of_three_images_are_not_enough():
    features = np.zeros((40, 700, 2), dtype=np.float32)
    features[:, :, 1] = np.arange(40)[:, None]  # everywhere the second query's order
    features[[30, 7, 19], :, 0] = np.array([[3], [2], [2]])
    features[[5, 6], 0, 0] = 1
    queries = np.array([[1, 0], [0, 1]], dtype=np.float32)
    scores, images = build(features).search(queries, 6)
    assert images.tolist() == [[30, 7, 19, 5, 6, 0], [39, 38, 37, 36, 35, 34]]
    assert scores.tolist() == [[3, 2, 2, 1, 1, 0], [39, 38, 37, 36, 35, 34]]


def test_only_unfinished_queries_are_fetched_again(monkeypatch):
    features = np.zeros((2000, 1, 2), dtype=np.float32)
    features[:, 0, 0] = np.arange(2000)  # the first query is certain at once; the second all ties
    index = as_on_a_gpu(build(features))
    searched = []

    class Recorder:
        ntotal = 2000

        def search(self, rows, fetch):
            searched.append((len(rows), fetch))
            return tokens.search(rows, fetch)

    tokens = index._tokens
    monkeypatch.setattr(index, "_tokens", Recorder())
    _, images = index.search(np.eye(2, dtype=np.float32), 2)
    assert searched == [(2, 1024), (1, 2000)]
    assert images.tolist() == [[1999, 1998], [0, 1]]


def test_batches_and_precisions():
    rng = np.random.default_rng(1)
    features = rng.integers(-3, 4, (30, 3, 5)).astype(np.float32)
    queries = rng.integers(-3, 4, (8, 5)).astype(np.float32)
    index = TokenIndex(dim=5, tokens_per_image=3)
    assert len(index) == 0
    index.add(torch.from_numpy(features[:10]).bfloat16().requires_grad_())
    index.add(features[10:11].astype(np.float64))
    index.add(torch.from_numpy(features[11:]).permute(2, 1, 0).contiguous().permute(2, 1, 0))
    assert len(index) == 30
    assert_exact(features, queries, 9, index)
    half = index.search(torch.from_numpy(queries).half(), 9)
    assert np.array_equal(half[1], index.search(queries, 9)[1])


def test_empty_index_and_no_queries():
    index = TokenIndex(dim=2, tokens_per_image=3)
    scores, images = index.search(np.ones((2, 2), np.float32), 3)
    assert (scores == -np.inf).all() and (images == -1).all() and images.shape == (2, 3)
    index.add(np.ones((4, 3, 2), np.float32))
    scores, images = index.search(np.ones((0, 2), np.float32), 3)
    assert scores.shape == images.shape == (0, 3)


def test_a_gpu_index_leaves_long_fetches_to_the_cpu(monkeypatch):
    class LimitedIndex:
        """Stands for FAISS' GPU index: the same search, at most 2048 results a query."""

        def __init__(self, cpu):
            self.cpu = cpu
            self.add = cpu.add

        ntotal = property(lambda self: self.cpu.ntotal)

        def search(self, rows, fetch):
            assert fetch <= 2048
            return self.cpu.search(rows, fetch)

    copies = []
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    to_gpu, to_cpu = "index_cpu_to_gpu", "index_gpu_to_cpu"
    monkeypatch.setattr(faiss, to_gpu, lambda _, device, cpu: LimitedIndex(cpu), raising=False)
    monkeypatch.setattr(faiss, to_cpu, lambda gpu: copies.append(1) or gpu.cpu, raising=False)
    rng = np.random.default_rng(2)
    features = rng.integers(-1, 2, (500, 10, 3)).astype(np.float32)
    queries = rng.integers(-1, 2, (9, 3)).astype(np.float32)
    queries[4] = 0  # every token ties, so that all 5000 must be fetched
    index = build(features, on_gpu=True)
    assert_exact(features, queries, 5, index)
    assert copies == [1]


def test_on_gpu_without_a_gpu_is_an_index_on_the_cpu(monkeypatch):
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    features = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    queries = np.array([[1, 1], [-1, 0]], dtype=np.float32)
    assert_exact(features, queries, 3, build(features, on_gpu=True))


def test_bad_input_is_refused():
    index = build(np.ones((3, 2, 4), np.float32))
    with pytest.raises(ValueError, match=r"not \[B, 2, 4\]"):
        index.add(np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"not \[B, 2, 4\]"):
        index.add(np.ones((1, 4, 2), np.float32))
    with pytest.raises(ValueError, match=r"not \[M, 4\]"):
        index.search(np.ones(4, np.float32), 1)
    with pytest.raises(ValueError, match="k is 0"):
        index.search(np.ones((1, 4), np.float32), 0)
    with pytest.raises(ValueError, match="start at 1"):
        TokenIndex(dim=4, tokens_per_image=0)
    with pytest.raises(UserError, match="gallery features hold NaN"):
        index.add(np.full((1, 2, 4), np.nan, np.float32))
    with pytest.raises(UserError, match="query features hold NaN"):
        index.search(torch.full((1, 4), float("inf")), 1)
    assert len(index) == 3


def test_similarity_to_chosen_images_equals_the_product():
    rng = np.random.default_rng(3)
    gallery = rng.standard_normal((7, 3, 5)).astype(np.float32)
    queries = rng.standard_normal((70, 5)).astype(np.float32)
    images = rng.integers(-1, 7, (70, 4))
    index = TokenIndex(dim=5, tokens_per_image=3)
    index.add(gallery)
    expected = np.einsum("gqe,me->mgq", gallery, queries).max(-1)
    expected = np.where(images < 0, -np.inf, np.take_along_axis(expected, images.clip(0), 1))
    np.testing.assert_allclose(index.similarity(queries, images), expected, atol=1e-6)
