"""Every kind of index in a folder against brute force, and after it is closed and damaged."""

import os
import subprocess
import sys

import bench_search
import numpy as np
import pytest
import torch
from database import database
from listed import listed

from gatedcir.errors import UserError
from gatedcir.features import shards
from gatedcir.search import embedded, large, segments
from gatedcir.search.index import Form
from gatedcir.search.kinds import KINDS
from gatedcir.search.segments import SegmentedIndex

__all__ = ["database", "listed"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Local mode"),
    pytest.mark.filterwarnings("ignore:.*too few to train"),
]
EXACT = SegmentedIndex


@pytest.fixture(params=[*KINDS, "large, listed"])
def kind(request):
    if request.param == "large, listed":
        return request.getfixturevalue("listed")
    if request.param == "embedded":
        pytest.importorskip("qdrant_edge")
    if request.param == "server":
        request.getfixturevalue("database")
    return KINDS[request.param]


def brute_force(features, queries, k, numbers):
    """Scores and numbers by a full product and a sort, equal scores by number."""
    similarity = np.einsum("gqe,mpe->mpgq", features, queries).max(-1).mean(1)  # [M, G]
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    found = np.full((len(queries), k), -1)
    for row, values in enumerate(similarity.tolist()):
        order = sorted(range(len(values)), key=lambda g: (-values[g], numbers[g]))[:k]
        found[row, : len(order)] = [numbers[g] for g in order]
        scores[row, : len(order)] = [values[g] for g in order]
    return scores, found


def fill(index, features, numbers, portions=1):
    for some in np.array_split(np.arange(len(numbers)), portions):
        if len(some):
            index.add([numbers[i] for i in some], [f"d{numbers[i]}" for i in some], features[some])


def random_case(rng):
    """Small integers, whose products are exact in half precision; many images are equal."""
    images, tokens, dim, parts = (int(rng.integers(1, high)) for high in (30, 6, 7, 4))
    features = rng.integers(-2, 3, (images, tokens, dim)).astype(np.float32)
    features[rng.integers(0, images, images // 2)] = features[0]
    # Four parts at most: their mean is exact too.
    queries = rng.integers(-2, 3, (int(rng.integers(1, 5)), 2 ** (parts // 2), dim))
    numbers = (rng.permutation(images) * 3 + 1).tolist()
    return features, queries.astype(np.float32), numbers


@pytest.mark.parametrize("seed", range(4))
def test_a_search_equals_brute_force(kind, seed, tmp_path):
    rng = np.random.default_rng(seed)
    for case in range(4):
        features, queries, numbers = random_case(rng)
        form = Form(*features.shape[1:], "fp16")
        index = kind.open(tmp_path / str(case), form, writable=True)
        fill(index, features, numbers, portions=3)
        chosen = rng.permutation(len(numbers))[: max(1, len(numbers) // 2)]
        for k in (1, len(numbers), len(numbers) + 3):
            for some in (np.arange(len(numbers)), chosen):
                ids = [numbers[i] for i in some]
                among = None if len(some) == len(numbers) else np.array(sorted(ids))
                scores, found = index.search(queries, k, among)
                expected = brute_force(features[some], queries, k, ids)
                assert np.array_equal(found, expected[1])
                assert np.array_equal(scores, expected[0])
        index.close()


def test_one_image_equal_images_and_none(kind, tmp_path):
    form = Form(1, 2, "fp32")
    index = kind.open(tmp_path / "i", form, writable=True)
    query = np.ones((1, 1, 2), np.float32)
    assert index.search(query, 2)[1].tolist() == [[-1, -1]]
    fill(index, np.ones((1, 1, 2), np.float32), [7])
    assert index.search(query, 2)[1].tolist() == [[7, -1]]
    fill(index, np.ones((4, 1, 2), np.float32), [9, 3, 5, 1])
    assert index.search(query, 3)[1].tolist() == [[1, 3, 5]]
    assert index.search(query, 3, np.array([], np.int64))[1].tolist() == [[-1] * 3]
    index.close()


def test_what_was_added_is_there_after_it_is_opened_again(kind, tmp_path):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((9, 3, 4)).astype(np.float32)
    form = Form(3, 4, "fp16")
    index = kind.open(tmp_path, form, writable=True)
    fill(index, features, list(range(9)), portions=4)
    index.remove([2, 5])
    index.save()
    index.close()
    index = kind.open(tmp_path, form)
    kept = [0, 1, 3, 4, 6, 7, 8]
    assert index.entries() == {number: f"d{number}" for number in kept}
    queries = rng.standard_normal((2, 1, 4)).astype(np.float32)
    _, found = index.search(queries, 9)
    assert np.array_equal(found, brute_force(features[kept], queries, 9, kept)[1])
    half = features[[3, 0]].astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(index.features([3, 0]), half, atol=1e-6)
    with pytest.raises(KeyError):
        index.features([2])
    assert index.info()["bytes"] > 0
    index.close()


def test_wrong_shapes_and_numbers_are_refused(kind, tmp_path):
    index = kind.open(tmp_path, Form(2, 3, "fp16"), writable=True)
    with pytest.raises(ValueError, match=r"not \(1, 2, 3\)"):
        index.add([1], ["a"], np.ones((1, 3, 2), np.float32))
    with pytest.raises(UserError, match="NaN"):
        index.add([1], ["a"], np.full((1, 2, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"not \[M, P, 3\]"):
        index.search(np.ones((1, 3), np.float32), 1)
    with pytest.raises(ValueError, match="k is 0"):
        index.search(np.ones((1, 1, 3), np.float32), 0)
    assert index.entries() == {}
    index.close()


def test_a_number_too_large_for_half_precision_is_refused(tmp_path):
    index = EXACT.open(tmp_path, Form(1, 1, "fp16"), writable=True)
    with pytest.raises(UserError, match="not all finite in fp16; index in fp32"):
        index.add([1], ["a"], np.full((1, 1, 1), 1e5, np.float32))


def filled(folder, images=6, portions=3):
    features = np.arange(images, dtype=np.float32).reshape(images, 1, 1)
    index = EXACT.open(folder, Form(1, 1, "fp16"), writable=True)
    fill(index, features, list(range(images)), portions)
    return sorted(folder.glob("*.safetensors"))


QUERY = np.ones((1, 1, 1), np.float32)


def test_a_cut_segment_is_named_at_opening_and_the_rest_is_read(tmp_path):
    _, cut, _ = filled(tmp_path)
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=f"{cut} is damaged or cut short"):
        index = EXACT.open(tmp_path, Form(1, 1, "fp16"))
    assert list(index.damaged) == [cut]
    assert index.search(QUERY, 6)[1].tolist() == [[5, 4, 1, 0, -1, -1]]


@pytest.mark.parametrize("name", ["a", str(2**70)])
def test_a_segment_whose_images_have_no_number_is_named(tmp_path, name):
    first, *_ = filled(tmp_path)
    tokens = torch.ones(1, 1, 1, dtype=torch.float16)
    shards.write(first, [shards.Entry(name, shards.ImageFile(0, 0, "a"))], [tokens])
    with pytest.warns(UserWarning, match=f"{first} is damaged.*has no number"):
        assert list(EXACT.open(tmp_path, Form(1, 1, "fp16")).damaged) == [first]


def test_a_changed_byte_is_named_at_reading_and_the_rest_is_read(tmp_path):
    changed, *_ = filled(tmp_path)
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    index = EXACT.open(tmp_path, Form(1, 1, "fp16"))
    with pytest.warns(UserWarning, match=f"{changed} is damaged.* row 1 have another checksum"):
        assert index.search(QUERY, 4)[1].tolist() == [[5, 4, 3, 2]]
    assert index.search(QUERY, 4)[1].tolist() == [[5, 4, 3, 2]]  # without a second warning
    assert list(index.entries()) == [2, 3, 4, 5]


def test_a_segment_that_is_cut_while_it_is_open_does_not_end_the_process(tmp_path):
    *_, cut = filled(tmp_path)
    index = EXACT.open(tmp_path, Form(1, 1, "fp16"))
    assert index.search(QUERY, 1)[1].tolist() == [[5]]
    os.truncate(cut, 0)
    with pytest.warns(UserWarning, match=f"{cut} is damaged.*its size has changed"):
        assert index.search(QUERY, 1)[1].tolist() == [[3]]


def test_small_segments_become_full_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 2 * 10)
    filled(tmp_path, images=25, portions=25)
    index = EXACT.open(tmp_path, Form(1, 1, "fp16"), writable=True)
    index.save()
    assert [len(one.numbers) for one in index._segments] == [10, 10, 5]
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    again = EXACT.open(tmp_path, Form(1, 1, "fp16"))
    assert again.search(QUERY, 25)[1].tolist() == [list(range(24, -1, -1))]


def test_an_image_that_is_there_twice_counts_once(tmp_path):
    """A process that was killed while it wrote segments together leaves both."""
    filled(tmp_path, images=3, portions=1)
    index = EXACT.open(tmp_path, Form(1, 1, "fp16"), writable=True)
    fill(index, np.arange(3, dtype=np.float32).reshape(3, 1, 1), [0, 1, 2])
    assert index.search(QUERY, 4)[1].tolist() == [[2, 1, 0, -1]]


def test_a_reader_notices_what_a_writer_adds_and_removes(tmp_path):
    filled(tmp_path, images=2, portions=1)
    reader = EXACT.open(tmp_path, Form(1, 1, "fp16"))
    writer = EXACT.open(tmp_path, Form(1, 1, "fp16"), writable=True)
    fill(writer, np.full((1, 1, 1), 9, np.float32), [8])
    writer.remove([0])
    assert reader.search(QUERY, 3)[1].tolist() == [[1, 0, -1]]
    reader.refresh()
    assert reader.search(QUERY, 3)[1].tolist() == [[8, 1, -1]]


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    left = tmp_path / "0000000001-a.host-1.unfinished"
    left.write_bytes(b"half")
    EXACT.open(tmp_path, Form(1, 1, "fp16"))
    assert left.exists()  # a reader leaves it: a writer may be at work
    EXACT.open(tmp_path, Form(1, 1, "fp16"), writable=True)
    assert not left.exists()


def test_the_embedded_engine_says_that_another_process_has_it(tmp_path):
    pytest.importorskip("qdrant_edge")
    form = Form(1, 1, "fp16")
    index = KINDS["embedded"].open(tmp_path, form, writable=True)
    code = "import sys, qdrant_edge; qdrant_edge.EdgeShard.load(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True
    )
    assert b"WouldBlock" in done.stderr  # what the message is made from
    with pytest.raises(UserError, match="in use by another process"):
        KINDS["embedded"].open(tmp_path, form)
    index.close()
    KINDS["embedded"].open(tmp_path, form).close()


def test_a_damaged_database_is_named(tmp_path):
    pytest.importorskip("qdrant_edge")
    KINDS["embedded"].open(tmp_path, Form(1, 1, "fp16"), writable=True).close()
    (tmp_path / "edge_config.json").write_text("{")
    with pytest.raises(UserError, match=f"{tmp_path} is damaged"):
        KINDS["embedded"].open(tmp_path, Form(1, 1, "fp16"))


def test_an_image_of_a_damaged_database_that_has_no_digest_is_named(tmp_path):
    edge = pytest.importorskip("qdrant_edge")
    index = KINDS["embedded"].open(tmp_path, Form(1, 1, "fp16"), writable=True)
    index._shard.update(edge.UpdateOperation.upsert_points([edge.Point(7, [[1.0]], {})]))
    with pytest.raises(UserError, match=rf"{tmp_path} is damaged \(an image has no digest\); del"):
        index.entries()
    index.close()


def test_a_missing_engine_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "qdrant_edge", None)
    with pytest.raises(
        UserError, match=r"pip install 'gatedcir\[qdrant\]', or make an index of the kind exact"
    ):
        embedded.EmbeddedIndex.open(tmp_path / "i", Form(1, 1, "fp16"), writable=True)
    assert not (tmp_path / "i").exists()


def test_precisions_are_those_of_the_form(tmp_path):
    for name, dtype in segments.PRECISIONS.items():
        index = EXACT.open(tmp_path / name, Form(1, 1, name), writable=True)
        fill(index, np.full((1, 1, 1), 0.1, np.float32), [0])
        assert index.features([0]).item() == torch.tensor(0.1, dtype=dtype).item()


@pytest.mark.usefixtures("database")
def test_the_benchmark_has_a_row_for_each_kind(capsys, monkeypatch):
    pytest.importorskip("qdrant_edge")
    monkeypatch.setattr(large, "LEAST", 18)
    sizes = "--images 9 --tokens 2 --dim 4 --clusters 3 --queries 2 --repeats 1 --probes 4 1"
    kinds = "--kinds numpy faiss-flat large embedded embedded-scalar server"
    bench_search.main([*sizes.split(), *kinds.split(), "--index-url", "http://here"])
    rows = capsys.readouterr().out.splitlines()
    kinds = ["exact", "numpy", "faiss-flat", "large, one list in 4", "large, one list in 1"]
    more = ["embedded", "embedded-scalar", "server"]
    assert [row.partition(":")[0] for row in rows[1:]] == [*kinds, *more]
    assert all("recall@9 1.0000" in row for row in rows[1:])
    with pytest.raises(UserError, match="there is no kind best; choose of numpy"):
        bench_search.main([*sizes.split(), "--kinds", "best"])
