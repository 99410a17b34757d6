"""The CIRR server's two files, and each of its rules."""

import json

import pytest

from gatedcir.benchmarks import cirr
from gatedcir.benchmarks.cirr import write_submission
from gatedcir.errors import UserError


def answers(queries=3, **changed):
    """Valid arguments: query i asks with ref-i and retrieves i-0, i-1, ..."""
    numbers = range(queries)
    return {
        "pair_ids": [str(7 * i) for i in numbers],
        "references": [f"ref-{i}" for i in numbers],
        "retrieved": [[f"{i}-{place}" for place in range(52)] for i in numbers],
        "group_retrieved": [[f"{i}-member-{place}" for place in range(5)] for i in numbers],
        **changed,
    }


def refused(folder, given, *words):
    with pytest.raises(UserError) as caught:
        write_submission(folder, **given)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)
    assert not folder.exists()


def test_both_files_hold_the_best_names_in_order(tmp_path):
    given = answers()
    folder = tmp_path / "new" / "folder"
    files = write_submission(folder, **given)
    assert sorted(folder.iterdir()) == sorted(files)
    recall, subset = (json.loads(file.read_text()) for file in files)
    assert [file.name for file in files] == [
        "recall_submission.json",
        "recall_subset_submission.json",
    ]
    assert (recall.pop("version"), recall.pop("metric")) == ("rc2", "recall")
    assert (subset.pop("version"), subset.pop("metric")) == ("rc2", "recall_subset")
    assert recall == {str(7 * i): [f"{i}-{place}" for place in range(50)] for i in range(3)}
    assert subset == {str(7 * i): [f"{i}-member-{place}" for place in range(3)] for i in range(3)}


def test_files_are_replaced(tmp_path):
    write_submission(tmp_path, **answers(3))
    files = write_submission(tmp_path, **answers(1))
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(json.loads(file.read_text()).keys() == {"version", "metric", "0"} for file in files)


@pytest.mark.parametrize("lists", ["retrieved", "group_retrieved"])
def test_too_few_names_are_refused(tmp_path, lists):
    given = answers()
    enough = {"retrieved": 50, "group_retrieved": 3}[lists]
    del given[lists][1][enough:]
    write_submission(tmp_path / "enough", **given)
    del given[lists][1][enough - 1 :]
    refused(tmp_path / "out", given, "pair 7 ", f"{enough - 1} ", f"{enough}")


@pytest.mark.parametrize("lists", ["retrieved", "group_retrieved"])
def test_a_repeated_name_is_refused(tmp_path, lists):
    given = answers()
    given[lists][2][1] = given[lists][2][0]
    refused(tmp_path / "out", given, "pair 14 ", "different names")


@pytest.mark.parametrize("lists", ["retrieved", "group_retrieved"])
def test_the_own_reference_is_refused(tmp_path, lists):
    given = answers()
    given[lists][1][2] = "ref-0"  # another query's reference is an answer like any other
    write_submission(tmp_path / "other", **given)
    given[lists][1][2] = "ref-1"
    refused(tmp_path / "out", given, "pair 7 ", "ref-1")


def test_a_repeated_pair_id_is_refused(tmp_path):
    refused(tmp_path / "out", answers(pair_ids=["12", "34", "12"]), "pair id 12")


def test_lists_of_other_lengths_are_a_mistake_of_the_caller(tmp_path):
    for name in ("references", "retrieved", "group_retrieved"):
        given = answers()
        given[name].pop()
        with pytest.raises(ValueError, match="shorter"):
            write_submission(tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_the_size_is_limited(tmp_path, monkeypatch):
    assert cirr.MOST_BYTES <= 5 * 2**20
    given = answers()
    sizes = [file.stat().st_size for file in write_submission(tmp_path / "first", **given)]
    monkeypatch.setattr(cirr, "MOST_BYTES", max(sizes))
    write_submission(tmp_path / "second", **given)
    monkeypatch.setattr(cirr, "MOST_BYTES", max(sizes) - 1)
    refused(tmp_path / "out", given, str(max(sizes)), "fewer")


def test_the_published_split_stays_below_the_limit(tmp_path):
    names = [f"test1-{place}-{place % 4}-img{place % 2}" for place in range(1000, 1050)]
    queries = 4148
    files = write_submission(
        tmp_path,
        pair_ids=[str(12000 + i) for i in range(queries)],
        references=["test1-0-0-img0"] * queries,
        retrieved=[names] * queries,
        group_retrieved=[names[:5]] * queries,
    )
    assert 4_000_000 < files[0].stat().st_size <= 5_000_000


def test_a_failed_write_leaves_neither_file(tmp_path, monkeypatch):
    write = type(tmp_path).write_bytes

    def full_disk(path, data):
        if "subset" in path.name:
            raise OSError("no space left")
        return write(path, data)

    monkeypatch.setattr(type(tmp_path), "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_submission(tmp_path, **answers())
    assert not list(tmp_path.glob("*.json"))
