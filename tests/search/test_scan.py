"""The scan for a single query against a full product, over several threads and runs of images."""

import numpy as np
import pytest
import torch

from gatedcir.search import scan, segments
from gatedcir.search.index import Form
from gatedcir.search.scan import Chosen, best_of_each, best_tokens
from gatedcir.search.segments import SegmentedIndex


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(scan, "_THREAD", 1)
    monkeypatch.setattr(scan, "_AT_ONCE", 3 * 2 * 4 * 2)  # runs of three images at most
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("precision", [torch.float16, torch.float32])
def test_the_scan_equals_a_full_product(precision):
    rng = np.random.default_rng(0)
    files = []
    for start in (100, 0):
        tokens = torch.from_numpy(rng.standard_normal((20, 2, 4))).to(precision)
        rows = np.sort(rng.permutation(20)[:13])
        files.append(Chosen(tokens, np.arange(start, start + 20), rows))
    query = rng.standard_normal(4).astype(np.float32)
    scores, images = best_tokens(query, files, 30)
    products = np.concatenate([(some.features().float().numpy() @ query).ravel() for some in files])
    owners = np.repeat(np.concatenate([some.numbers[some.rows] for some in files]), 2)
    order = np.argsort(-products)[:30]
    np.testing.assert_allclose(scores, products[order], atol=1e-6)
    assert np.array_equal(images, owners[order])
    each = np.concatenate([best_of_each(query, some) for some in files])
    np.testing.assert_allclose(each, products.reshape(-1, 2).max(1), atol=1e-6)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("few", [0, 16])
def test_equal_images_come_by_number_whatever_k_is(few, tmp_path, monkeypatch):
    index = SegmentedIndex.open(tmp_path, Form(2, 4, "fp16"), writable=True)
    for numbers in ([9, 3, 8, 1], [7, 2, 6, 4, 5]):
        index.add(numbers, list(map(str, numbers)), np.ones((len(numbers), 2, 4), np.float32))
    query = np.ones((1, 1, 4), np.float32)
    monkeypatch.setattr(segments, "_FEW_FOR_EACH", few)
    for k in range(1, 10):
        assert index.search(query, k)[1].tolist() == [list(range(1, 10))[:k]]


def test_the_scan_reads_only_the_images_that_were_chosen(tmp_path):
    """Another image of the same file may be damaged."""
    index = SegmentedIndex.open(tmp_path, Form(1, 2, "fp16"), writable=True)
    index.add([0, 1, 2], ["a", "b", "c"], np.ones((3, 1, 2), np.float32))
    [file] = tmp_path.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of image 2
    file.write_bytes(content)
    query = np.ones((1, 1, 2), np.float32)
    index = SegmentedIndex.open(tmp_path, Form(1, 2, "fp16"))
    assert index.search(query, 2, np.array([0, 1]))[1].tolist() == [[0, 1]]
    assert not index.damaged
    with pytest.warns(UserWarning, match="row 2 have another checksum"):
        assert index.search(query, 2)[1].tolist() == [[-1, -1]]
