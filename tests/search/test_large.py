"""The large index: what its first stage lists, what it leaves to exact search, and its files."""

from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from listed import listed

from gatedcir.commands.index import Options
from gatedcir.errors import UserError
from gatedcir.search import large
from gatedcir.search.index import Form
from gatedcir.search.ivfpq import FirstStage, Lists
from gatedcir.search.kinds import KINDS
from gatedcir.search.large import LargeIndex

__all__ = ["listed"]
FORM = Form(4, 8, "fp32")


@pytest.fixture
def small(monkeypatch):
    """A gallery of 40 images is large, and a search scores few of them."""
    monkeypatch.setattr(large, "LEAST", 160)
    monkeypatch.setattr(large, "_CANDIDATES", 4)
    monkeypatch.setattr(large, "_FOR_EACH", 1)


def unit(shape, seed=0):
    found = np.random.default_rng(seed).standard_normal(shape)
    return (found / np.linalg.norm(found, axis=-1, keepdims=True)).astype(np.float32)


def filled(folder, features, lists=None):
    (lists or Lists()).write(folder)
    index = LargeIndex.open(folder, FORM, writable=True)
    put(index, range(len(features)), features)
    index.save()
    return index


def put(index, numbers, features):
    index.add(list(numbers), [f"d{n}" for n in numbers], features)


def scores_of(features, query):
    """[G]: the best product with any feature, as a mean over the parts of a query [P, E]."""
    return np.einsum("gqe,pe->pgq", features, query).max(-1).mean(0)


@pytest.mark.parametrize("parts", [1, 3])
def test_with_all_lists_and_all_candidates_it_equals_brute_force(
    listed, parts, tmp_path, monkeypatch
):
    asked = []
    candidates = FirstStage.candidates
    monkeypatch.setattr(
        FirstStage, "candidates", lambda *of: asked.append(candidates(*of)) or asked[-1]
    )
    features, queries = unit((60, 4, 8)), unit((5, parts, 8), seed=1)
    index = listed.open(tmp_path, FORM, writable=True)
    put(index, range(60), features)
    scores, found = index.search(queries, 20)
    for query, row, images in zip(queries, scores, found, strict=True):
        expected = scores_of(features, query)
        assert np.array_equal(images, np.argsort(-expected)[:20])
        np.testing.assert_allclose(row, expected[images], atol=1e-6)
    assert [len(images) for images in asked] == [60] * 5
    assert "240 features in 16 lists" in index.info()["first stage"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("pool_factor", [1, 2])
def test_candidates_have_their_exact_scores_and_the_image_itself_is_among_them(
    pool_factor, tmp_path
):
    features = unit((50, 4, 8))
    features[:, 1::2] = features[:, ::2]  # what k-means to half as many keeps
    index = filled(tmp_path, features, Lists(pool_factor=pool_factor))
    assert index._stage.index.ntotal == 50 * 4 / pool_factor
    for number in range(50):
        query = features[number, :1]
        scores, found = index.search(query[None], 3)
        assert found[0, 0] == number
        assert (found >= 0).all()
        np.testing.assert_allclose(scores[0], scores_of(features, query)[found[0]], atol=1e-6)


@pytest.mark.usefixtures("small")
def test_no_image_is_missing_if_the_lists_that_are_looked_into_hold_too_few(tmp_path):
    features = unit((50, 4, 8))
    index = filled(tmp_path, features, Lists(nlist=40, nprobe=1))
    query = unit((1, 1, 8), seed=1)
    _, found = index.search(query, 20)
    assert np.array_equal(found[0], np.argsort(-scores_of(features, query[0]))[:20])


def test_a_gallery_that_is_too_small_to_train_is_searched_exactly(tmp_path):
    features = unit((50, 4, 8))
    with pytest.warns(UserWarning, match="has 50 images, too few .*; below 80000 images, .* exact"):
        index = filled(tmp_path, features)
    query = unit((1, 1, 8), seed=1)
    assert index.search(query, 1)[1] == scores_of(features, query[0]).argmax()
    assert "none" in index.info()["first stage"]


@pytest.mark.usefixtures("small")
def test_images_are_found_before_they_are_listed_and_not_after_they_are_removed(tmp_path):
    features = unit((60, 4, 8))
    index = filled(tmp_path, features[:50])
    put(index, range(50, 60), features[50:])

    def first(number, index, among=None):
        return index.search(features[number, :1][None], 1, among)[1].item()

    again = LargeIndex.open(tmp_path, FORM)
    odd = np.arange(1, 60, 2)
    for one in (index, again):
        assert [first(n, one) for n in (3, 55)] == [3, 55]
        assert first(55, one, odd) == 55
        assert first(50, one, odd) in odd
    index.remove([3, 55])
    assert first(3, index) != 3
    index.add([3], ["other"], -features[3:4])  # the number gets another content
    index.save()
    again.refresh()
    for one in (index, again):
        assert one._stage.numbers.tolist() == [n for n in range(60) if n != 55]
        assert one.search(-features[3, :1][None], 1)[1] == 3
        assert first(3, one) != 3
    assert len(list(tmp_path.glob("lists-*"))) == 1


@pytest.mark.usefixtures("small")
def test_damaged_lists_are_named_and_made_again(tmp_path):
    features = unit((50, 4, 8))
    filled(tmp_path, features)
    [stage] = tmp_path.glob("lists-*")
    (stage / "lists.faiss").write_bytes(b"no index")
    with pytest.warns(UserWarning, match=f"{stage} is damaged .*run gatedcir index again"):
        index = LargeIndex.open(tmp_path, FORM, writable=True)
    assert index.search(features[7:8, :1], 1)[1] == 7
    index.save()
    [made] = tmp_path.glob("lists-*")
    assert made != stage
    assert LargeIndex.open(tmp_path, FORM)._stage is not None


@pytest.mark.usefixtures("small")
def test_a_changed_bit_of_the_lists_is_told_and_all_images_are_searched(tmp_path):
    features = unit((50, 4, 8))
    filled(tmp_path, features)
    [stage] = tmp_path.glob("lists-*")
    assert LargeIndex.open(tmp_path, FORM)._stage is not None
    for file in stage.iterdir():
        content = file.read_bytes()
        for at in range(0, len(content), 1 + len(content) // 9):
            file.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
            with pytest.warns(UserWarning, match=f"{stage} is damaged"):
                index = LargeIndex.open(tmp_path, FORM)
            assert index.search(features[7:8, :1], 1)[1] == 7
        file.write_bytes(content)
    (stage / "sums.json").unlink()  # lists of an earlier version have none
    assert LargeIndex.open(tmp_path, FORM)._stage is not None


@pytest.mark.usefixtures("small")
def test_nothing_is_written_without_a_change_and_growth_trains_again(tmp_path):
    features = unit((400, 4, 8))
    index = filled(tmp_path, features[:50])
    [stage] = tmp_path.glob("lists-*")
    index.save()
    assert list(tmp_path.glob("lists-*")) == [stage]
    assert index._stage.index.nlist == 16  # near the root of 200
    put(index, range(50, 400), features[50:])
    index.save()
    assert index._stage.index.nlist == 32  # near that of 1600
    assert index._stage.index.ntotal == 1600


def test_the_leftover_of_a_killed_process_is_removed(tmp_path):
    left = tmp_path / "lists-a.b.unfinished"
    left.mkdir()
    LargeIndex.open(tmp_path, FORM)
    assert left.exists()  # a reader leaves it
    LargeIndex.open(tmp_path, FORM, writable=True)
    assert not left.exists()


def test_settings_are_kept_and_a_damaged_file_is_named(tmp_path):
    lists = Lists(nlist=3, nprobe=2, pq_bytes=1, pool_factor=4)
    lists.write(tmp_path)
    assert LargeIndex.open(tmp_path, FORM).lists == lists
    stage = FirstStage.trained(lists, 80, torch.from_numpy(unit((20, 4, 8))))
    assert (stage.index.nlist, stage.index.pq.M, stage.index.pq.nbits) == (3, 2, 4)
    (tmp_path / "large.json").write_text("{")
    with pytest.raises(UserError, match=r"large\.json is damaged"):
        LargeIndex.open(tmp_path, FORM)


def test_the_command_names_every_kind():
    [named, _] = get_args(get_type_hints(Options)["kind"])
    assert get_args(named) == tuple(KINDS)
