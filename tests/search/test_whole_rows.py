"""A catalogue that was damaged after it was written: what is told, and what can still be used."""

import random
import re
import shutil
import sqlite3
import warnings
from pathlib import Path

import pytest

from gatedcir.errors import UserError
from gatedcir.search.catalogue import Catalogue, Known

COUNT = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A catalogue of some pages: changed, renamed and removed files too."""
    file = tmp_path_factory.mktemp("made") / "c.sqlite"
    catalogue = Catalogue(file, writable=True)
    catalogue.add_images({number: f"{number:064}" for number in range(COUNT)})
    with catalogue.writing():
        for number in range(COUNT):
            path = Path(f"/photos/of many/{number:04}.jpg")
            catalogue.set_file(path, Known(number, 1000 + number, 10**18 + number))
            catalogue.set_metadata(path, {"parity": ["odd", "even"][number % 2], "price": number})
    catalogue.rename_file(Path("/photos/of many/0007.jpg"), Path("/photos/é.jpg"))
    catalogue.set_file(Path("/photos/of many/0008.jpg"), Known(9, 1, 2))
    catalogue.drop_file(Path("/photos/of many/0010.jpg"))
    catalogue.close()
    return file


@pytest.fixture
def copy(made, tmp_path):
    for file in made.parent.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / made.name


def content(catalogue):
    """What a reader shows of each file, with what a search for one of its values finds."""
    odd = set(catalogue.searchable({"parity": "odd"}).tolist()) if catalogue.fields() else set()
    return {
        path: (known, catalogue.show(known.number), known.number in odd)
        for path, known in catalogue.files().items()
    }


def change(file, at, bit=4):
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ bit]))


def in_a_row(file):
    """A place in the path of one file, in its row and not in the database's own index of paths."""
    return re.search(rb'0042\.jpg.{1,30}\{"parity"', file.read_bytes(), re.DOTALL).start()


def test_a_changed_bit_is_told_and_the_other_rows_are_as_they_were(made, copy):
    whole = content(Catalogue(made))
    assert len(whole) == COUNT - 1
    content_of_file, rng = made.read_bytes(), random.Random(0)
    fewest = least = len(whole)
    for at in (in_a_row(made), *rng.sample(range(len(content_of_file)), 100)):
        copy.write_bytes(content_of_file)
        change(copy, at)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                catalogue = Catalogue(copy)
            except UserError as error:
                assert str(copy) in str(error) and at < 1000  # of the first page
                continue
            found = content(catalogue)
        if not 24 <= at < 28:  # how often it was changed
            [line] = [str(one.message) for one in told]
            assert line.startswith(f"{copy} was damaged after it was written: ")
            assert f": {len(found)} files of it can be used; put a copy back" in line
            assert catalogue.damaged
        # Two files show image 9. If one is lost, the other shows no other file.
        assert {p: one[0] for p, one in found.items()}.items() <= {
            p: one[0] for p, one in whole.items()
        }.items()
        assert all(found[p] == whole[p] for p in found if found[p][0].number != 9)
        fewest = min(fewest, len(found))
        least = min(least, len(whole.keys() - found.keys()) or least)
    assert least == 1 and 0 < fewest < len(whole)


def test_a_damaged_catalogue_is_neither_written_nor_copied(copy, tmp_path):
    change(copy, in_a_row(copy))
    before = copy.read_bytes()
    with pytest.raises(UserError, match=r"was damaged after .*; put a copy back, or delete it and"):
        Catalogue(copy, writable=True)
    with pytest.warns(UserWarning, match="58 files of it can be used"):
        reader = Catalogue(copy)
    with pytest.raises(UserError, match="is damaged; put a copy back"):
        reader.copy(tmp_path / "d.sqlite")
    reader.close()
    assert copy.read_bytes() == before and not (tmp_path / "d.sqlite").exists()
    copy.unlink()
    new = Catalogue(copy, writable=True)  # the way out
    assert new.files() == {}
    new.close()
    assert Catalogue(copy).files() == {}


def test_a_copy_has_checksums_too(made, tmp_path):
    Catalogue(made).copy(tmp_path / "d.sqlite")
    change(tmp_path / "d.sqlite", in_a_row(tmp_path / "d.sqlite"))
    with pytest.warns(UserWarning, match="58 files of it can be used"):
        Catalogue(tmp_path / "d.sqlite")


def test_a_writer_that_was_killed_or_still_writes_is_no_damage(copy):
    note = copy.with_suffix(".sum")
    old = note.read_text()
    writer = Catalogue(copy, writable=True)
    writer.drop_file(Path("/photos/é.jpg"))
    assert not note.exists()
    assert len(Catalogue(copy).files()) == COUNT - 2
    note.write_text(old)  # as after a copy of an earlier one was put back
    assert not Catalogue(copy).damaged
    writer.close()
    assert note.read_text() != old


def test_a_damaged_note_is_no_damage(copy):
    note = copy.with_suffix(".sum")
    good = note.read_bytes()
    for at in range(len(good)):
        change(note, at)
        assert not Catalogue(copy).damaged
        note.write_bytes(good)


def test_a_catalogue_of_an_earlier_version_gets_checksums_when_it_is_written(copy):
    copy.with_suffix(".sum").unlink()
    database = sqlite3.connect(copy)
    database.execute("ALTER TABLE files DROP COLUMN crc")
    database.commit()
    database.close()
    whole = content(Catalogue(copy))
    writer = Catalogue(copy, writable=True)
    writer.set_file(Path("/photos/new.jpg"), Known(1, 2, 3))
    writer.close()
    assert content(Catalogue(copy)).keys() - whole.keys() == {Path("/photos/new.jpg")}
    change(copy, in_a_row(copy))
    with pytest.warns(UserWarning, match="was damaged after it was written: "):
        Catalogue(copy)
