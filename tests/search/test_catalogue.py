"""The catalogue of an index: files, contents, metadata."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gatedcir.errors import UserError
from gatedcir.search.catalogue import Catalogue, Known

A, B, C = Path("/p/a.jpg"), Path("/p/b.jpg"), Path("/p/c.jpg")


@pytest.fixture
def catalogue(tmp_path):
    found = Catalogue(tmp_path / "c.sqlite", writable=True)
    found.add_images({1: "one", 2: "two", 3: "three"})
    for number, path in ((1, A), (2, B), (2, C)):
        found.set_file(path, Known(number, 10, 20))
    found.set_metadata(A, {"category": "dress", "price": 10, "tags": ["new", "red"]})
    found.set_metadata(B, {"category": "shirt", "price": 50.5, "tags": ["red"], "sold": True})
    found.set_metadata(C, {"category": "dress", "price": "on demand"})
    yield found
    found.close()


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        (None, [1, 2]),
        ({"category": "dress"}, [1, 2]),
        ({"category": "shirt"}, [2]),
        ({"category": ["shirt", "hat"]}, [2]),
        ({"category": ()}, None),
        ({"tags": "red"}, [1, 2]),
        ({"tags": "new"}, [1]),
        ({"price": (10, 50.5)}, [1, 2]),
        ({"price": (10.5, None)}, [2]),
        ({"price": (None, 10)}, [1]),
        ({"price": (None, None)}, [1, 2]),
        ({"price": "on demand"}, [2]),
        ({"category": ("a", "e")}, [1, 2]),
        ({"sold": True}, [2]),
        ({"sold": False}, []),
        ({"category": []}, []),
        # Both must hold of one file: B is the shirt, and C is the dress.
        ({"category": "dress", "price": (50, 60)}, []),
    ],
)
def test_conditions(catalogue, where, numbers):
    if numbers is None:
        with pytest.raises(UserError, match="is no range"):
            catalogue.searchable(where)
    else:
        assert catalogue.searchable(where).tolist() == numbers


def test_a_result_shows_the_file_that_fulfils_the_conditions(catalogue):
    assert catalogue.show(2).path == B
    shown = catalogue.show(2, {"category": "dress"})
    assert shown == (C, (B,), {"category": "dress", "price": "on demand"})
    assert catalogue.show(3) is None


def test_an_unknown_field_is_named_with_those_that_are_there(catalogue, tmp_path):
    with pytest.raises(
        UserError, match=r"the field 'colour'; there are category, price, sold, tags\.$"
    ):
        catalogue.searchable({"colour": "red"})
    empty = Catalogue(tmp_path / "d.sqlite", writable=True)
    with pytest.raises(
        UserError, match=r"the field 'colour'; `gatedcir index --metadata FILE` adds some\.$"
    ):
        empty.searchable({"colour": "red"})


def test_files_come_and_go(catalogue):
    catalogue.rename_file(A, Path("/p/z.jpg"))
    catalogue.drop_file(B)
    assert list(catalogue.files()) == [Path("/p/z.jpg"), C]
    assert catalogue.show(1).metadata["price"] == 10
    assert catalogue.fields() == ["category", "price", "tags"]  # sold was B's alone
    assert catalogue.counts() == {"files": 2, "images": 2, "kept of removed files": 1}
    catalogue.set_file(C, Known(3, 1, 2))  # another content
    assert catalogue.searchable({"price": "on demand"}).tolist() == [3]
    catalogue.forget_images([2])
    assert catalogue.images() == {"one": 1, "three": 3}


def test_known_numbers_and_digests_stay(catalogue):
    catalogue.add_images({9: "one", 1: "other", 4: "four"})
    assert catalogue.images() == {"one": 1, "two": 2, "three": 3, "four": 4}


def test_all_changes_of_a_block_or_none(catalogue):
    with pytest.raises(KeyboardInterrupt), catalogue.writing():
        catalogue.drop_file(A)
        raise KeyboardInterrupt
    assert A in catalogue.files()


def test_a_reader_sees_that_another_has_written(catalogue):
    reader = Catalogue(catalogue.file)
    before = reader.version()
    assert reader.version() == before
    catalogue.drop_file(A)
    assert reader.version() != before
    with pytest.raises(UserError, match=r"readonly database\); check its permissions\.$"):
        reader.drop_file(B)
    reader.close()


def test_names_that_are_no_utf8(catalogue):
    path = Path(os.fsdecode(b"/p/\xff.jpg"))
    catalogue.set_file(path, Known(3, 1, 2))
    assert catalogue.show(3).path == path


def test_a_damaged_or_missing_file_is_named(tmp_path):
    file = tmp_path / "c.sqlite"
    with pytest.raises(UserError, match=f"{file} cannot be used .*if it is gone, index"):
        Catalogue(file)
    file.write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=f"{file} cannot be used .*the features are kept"):
        Catalogue(file)


def test_a_full_disk_is_one_sentence(catalogue):
    [(pages,)] = catalogue._all("PRAGMA page_count")
    catalogue._all(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(UserError, match=r"could not be written \(no room for it\)"):
        catalogue.add_images({number: "x" * 2000 + str(number) for number in range(10, 200)})


def test_a_limit_on_file_sizes_is_not_taken_for_a_damage(tmp_path):
    code = """
import resource, signal, sys
from pathlib import Path
from gatedcir.search.catalogue import Catalogue
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
Catalogue(Path(sys.argv[1]), writable=True)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "c.sqlite")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert re.search(r"UserError: .*disk.*ulimit -f\)\.$", done.stderr.strip())


def test_a_database_that_another_writes_is_said(catalogue):
    other = Catalogue(catalogue.file, writable=True)
    other._all("PRAGMA busy_timeout = 0")
    with catalogue.writing(), pytest.raises(UserError, match="wait until the other process"):
        other.drop_file(A)
    other.close()


def test_sqlite_may_be_used_by_several_threads():
    assert sqlite3.threadsafety == 3


def test_a_reader_takes_back_what_a_killed_process_left_half_written(tmp_path):
    """The files of a process in the middle of a change are those that kill -9 leaves."""
    catalogue = Catalogue(tmp_path / "c.sqlite", writable=True)
    catalogue.add_images({1: "a"})
    left = tmp_path / "left"
    left.mkdir()
    catalogue._database.execute("PRAGMA cache_size = 1")  # changes go to the file at once
    with pytest.raises(KeyboardInterrupt), catalogue.writing():
        catalogue._database.executemany(
            "INSERT INTO images VALUES (?, ?)", [(n, "x" * 500 + str(n)) for n in range(2, 500)]
        )
        for file in tmp_path.glob("c.sqlite*"):
            shutil.copy(file, left)
        raise KeyboardInterrupt
    assert (left / "c.sqlite-journal").stat().st_size > 0
    assert (left / "c.sqlite").stat().st_size > 100_000
    found = Catalogue(left / "c.sqlite")
    assert found.images() == {"a": 1}
    with pytest.raises(UserError, match="readonly"), found.writing():
        found._database.execute("DELETE FROM images")


def test_images_are_noted_and_forgotten_in_one_commit(catalogue):
    """Each commit waits for the disk."""
    asked = []
    catalogue._database.set_trace_callback(asked.append)
    catalogue.add_images({number: f"content {number}" for number in range(10, 40)})
    catalogue.forget_images(range(10, 30))
    assert [words for words in asked if words in ("BEGIN IMMEDIATE", "COMMIT")] == [
        *("BEGIN IMMEDIATE", "COMMIT") * 2
    ]
    assert len([words for words in asked if words.startswith(("INSERT", "DELETE"))]) == 50
    assert len(catalogue.images()) == 3 + 10
