"""An index as another kind: the same features, names and answers, also after a stop."""

import shutil

import numpy as np
import pytest
from conftest import bad
from database import database

from gatedcir.commands import index
from gatedcir.errors import UserError
from gatedcir.gallery import copying
from gatedcir.gallery.copying import copy_index
from gatedcir.gallery.gallery import Gallery, info_of
from gatedcir.gallery.indexing import Indexing
from gatedcir.gallery.place import FEATURES, IndexFolder, read_manifest
from gatedcir.gallery.retriever import Retriever
from gatedcir.search import large
from gatedcir.search.ivfpq import Lists
from gatedcir.search.kinds import KINDS
from gatedcir.search.segments import SegmentedIndex
from gatedcir.search.server import Server

__all__ = ["database"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Local mode"),
    pytest.mark.filterwarnings("ignore:.*too few to train"),
]


@pytest.fixture(scope="module")
def retriever():
    return Retriever.from_pretrained("tiny")


@pytest.fixture(scope="module")
def made(retriever, photos, tmp_path_factory):
    """An exact index with metadata, a duplicate, and an image that no search finds."""
    place = tmp_path_factory.mktemp("made")
    shutil.copytree(photos, place / "photos")
    first, second, *_ = sorted((place / "photos").iterdir())
    shutil.copy(first, place / "photos" / "copy.png")
    (place / "table.csv").write_text(f"path,price\n{first.name},3\n")
    retriever.index(place / "photos", to=place / "index", metadata=place / "table.csv").close()
    with Indexing.at(place / "index", retriever) as opened:
        opened.remove([second])
    return place / "index"


def content(path):
    """Everything that an index holds."""
    folder = IndexFolder.open(path, read_manifest(path))
    entries = dict(sorted(folder.stored.entries().items()))
    catalogue = folder.catalogue
    found = entries, catalogue.files(), catalogue.images(), catalogue.fields()
    features = folder.stored.features(list(entries))
    info = info_of(folder)
    folder.close()
    return found, features, [info[name] for name in ("files", "images", "duplicates", "weights")]


def assert_same(one, other):
    (names, features, info), (other_names, other_features, other_info) = map(content, (one, other))
    assert (names, info) == (other_names, other_info)
    np.testing.assert_array_equal(features, other_features)


def test_a_copy_of_every_kind_is_the_same_index(made, retriever, database, tmp_path, monkeypatch):
    pytest.importorskip("qdrant_edge")
    with monkeypatch.context() as patch:
        patch.setattr(Retriever, "from_pretrained", None)  # no model is opened
        index.main(["--copy-of", str(made), "--output", str(tmp_path / "e"), "--kind", "embedded"])
        asked = ["--copy-of", str(tmp_path / "e"), "--output", str(tmp_path / "s")]
        index.main([*asked, "--index-url", "http://here"])
        patch.setattr(large, "LEAST", 16)
        copy_index(tmp_path / "s", tmp_path / "l", kind="large", settings=Lists(pool_factor=2))
        copy_index(tmp_path / "l", tmp_path / "m")
        copy_index(tmp_path / "m", tmp_path / "x", kind="exact")
    assert Lists.read(tmp_path / "m" / FEATURES) == Lists(pool_factor=2)
    assert len(list((tmp_path / "m" / FEATURES).glob("lists-*"))) == 1
    for name in "eslmx":
        assert_same(made, tmp_path / name)
    kinds = [read_manifest(tmp_path / name).kind for name in "eslmx"]
    assert kinds == ["embedded", "server", "large", "large", "exact"]
    answers = []
    for path in (made, *(tmp_path / name for name in "eslmx")):
        gallery = Gallery.open(path, retriever)
        answers.append([hit.path for hit in gallery.search(text="red", k=50)])
        gallery.close()
    assert answers[0] and all(found == answers[0] for found in answers)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_goes_on_and_is_no_index_before_its_end(kind, made, database, tmp_path, monkeypatch):
    pytest.importorskip("qdrant_edge")
    server = Server.new("http://here") if kind == "server" else None
    settings = {"kind": kind, "precision": "fp32", "settings": server}
    monkeypatch.setattr(copying, "_AT_ONCE", 3)
    read, seen = SegmentedIndex.features, []

    def stop(self, numbers):
        seen.extend(numbers)
        if len(seen) > 6:
            raise KeyboardInterrupt
        return read(self, numbers)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentedIndex, "features", stop)
        with pytest.raises(KeyboardInterrupt):
            copy_index(made, tmp_path / "new", **settings)
    with pytest.raises(UserError, match="is not finished; repeat the gatedcir index command"):
        read_manifest(tmp_path / "new")
    with pytest.raises(UserError, match=r"an unfinished copy of .* with other options; repeat the"):
        copy_index(made, tmp_path / "new", **settings | {"precision": "fp16"})
    bad(index, ["--output", tmp_path / "new", "--images", made.parent / "photos"], "not finished")
    there = len(content(made)[0][0])
    note = tmp_path / "new" / "copying.json"
    begun = note.read_text()
    note.write_text("{")
    with pytest.raises(UserError, match=r"copying\.json is damaged .*; delete "):
        copy_index(made, tmp_path / "new", **settings)
    note.write_text(begun)
    assert copy_index(made, tmp_path / "new", **settings) == there - 6
    assert_same(made, tmp_path / "new")
    with pytest.raises(UserError, match=r"new is an index already; name a new folder\."):
        copy_index(made, tmp_path / "new", **settings)
    assert_same(made, tmp_path / "new")


def test_settings_of_another_kind_are_refused(made, tmp_path):
    with pytest.raises(UserError, match="kind exact does not ask how it lists features"):
        copy_index(made, tmp_path / "new", kind="exact", settings=Lists(nlist=3))


def test_an_index_that_changes_meanwhile_is_copied_as_it_is_then(
    made, retriever, tmp_path, monkeypatch
):
    source, target = tmp_path / "index", tmp_path / "new"
    shutil.copytree(made, source)
    read = SegmentedIndex.features

    def change(self, numbers):
        found = read(self, numbers)
        with Indexing.at(source, retriever) as opened:
            opened.compact()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(SegmentedIndex, "features", change)
        with pytest.raises(UserError, match="was changed while it was copied; repeat the command"):
            copy_index(source, target)
    assert copy_index(source, target) == 0
    assert_same(source, target)


def test_what_cannot_be_copied_is_said_and_nothing_is_written(made, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    for words, message in (
        (["--copy-of", made, "--output", tmp_path / "full"], "full holds other files; name a new"),
        (["--copy-of", tmp_path, "--output", tmp_path / "n"], "there is no index in"),
        (
            ["--copy-of", made, "--output", tmp_path / "n", "--compact"],
            "takes an index as it is",
        ),
        (["--copy-of", made, "--output", tmp_path / "n", "--kind", "server"], "needs the address"),
    ):
        bad(index, words, message)
        assert sorted(tmp_path.rglob("*")) == before


def test_a_copy_is_never_in_its_index_nor_around_it(made, tmp_path):
    source = tmp_path / "features-of-photos" / "features"  # names that an index has too
    shutil.copytree(made, source)
    (tmp_path / "link").symlink_to(source)
    before = sorted(tmp_path.rglob("*"))
    inside = (source, source / "new", source / "features" / "new", tmp_path / "link" / "new")
    for target in (*inside, source.parent, tmp_path):
        flags = ["--copy-of", source, "--output", target, "--kind", "large"]
        bad(index, flags, f"{target} is the index", "in it or around it; name a new folder else")
        assert sorted(tmp_path.rglob("*")) == before
    assert_same(made, source)
    assert copy_index(source, source.with_name("features-2")) > 0
