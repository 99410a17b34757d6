"""A folder of photos and its index, over the changes of the folder."""

import os
import shutil
import signal
import sys

import forked
import numpy as np
import pytest
from PIL import Image

from gatedcir.errors import UserError
from gatedcir.gallery import indexing, photos
from gatedcir.gallery.gallery import Gallery, info_of
from gatedcir.gallery.indexing import Indexing
from gatedcir.gallery.place import IndexFolder, read_manifest
from gatedcir.gallery.retriever import Retriever


@pytest.fixture(scope="module")
def retriever():
    return Retriever.from_pretrained("tiny")


def draw(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((40, 30)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Six images: in sub-folders, of several formats and endings."""
    names = ("a.png", "b.JPG", "sub/c.webp", "sub/d.jpeg", "sub/deep/e.tiff", "f.gif")
    for seed, name in enumerate(names):
        draw(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


def sync(retriever, folder, *, kind=None, **settings):
    """The report of one run over the folder."""
    with Indexing.at(folder.parent / "index", retriever, kind=kind) as index:
        return index.sync(folder, **settings)


def counts(report):
    return {name: count for name, count in report.counts.items() if count}


def names(retriever, folder, **query):
    gallery = Gallery.open(folder.parent / "index", retriever)
    found = gallery.search(**(query or {"text": "red"}), k=50)
    gallery.close()
    return [hit.path.relative_to(folder).as_posix() for hit in found]


@pytest.mark.filterwarnings("ignore:.*too few to train")
@pytest.mark.parametrize("kind", ["exact", "large", "embedded"])
def test_every_change_of_a_folder_is_found(kind, retriever, folder, monkeypatch):
    if kind == "embedded":
        pytest.importorskip("qdrant_edge")
    first = sync(retriever, folder, kind=kind)
    assert (counts(first), first.encoded) == ({"new": 6}, 6)
    assert sorted(names(retriever, folder)) == sorted(
        path.relative_to(folder).as_posix() for path in photos.find_photos(folder)
    )

    with monkeypatch.context() as patch:  # nothing is even read
        patch.setattr(Retriever, "encode_pixels", None)
        patch.setattr(indexing, "digest", None)
        second = sync(retriever, folder)
    assert (counts(second), second.encoded) == ({"unchanged": 6}, 0)

    draw(folder / "new.png", 10)
    draw(folder / "a.png", 11)  # another content
    (folder / "b.JPG").rename(folder / "renamed.jpg")
    (folder / "f.gif").unlink()
    os.utime(folder / "sub/c.webp", (1, 1))  # another time only
    shutil.copy(folder / "sub/d.jpeg", folder / "copy.jpeg")
    third = sync(retriever, folder, watch_deleted=True)
    assert counts(third) == {
        **{"new": 1, "changed": 1, "renamed": 1, "deleted": 1, "duplicates": 1},
        "unchanged": 3,
    }
    assert third.encoded == 2
    found = names(retriever, folder)
    assert len(found) == 6  # d is stored once
    assert {"renamed.jpg", "new.png", "a.png"} < set(found)
    assert "f.gif" not in found and "b.JPG" not in found

    [best, *_] = names(retriever, folder, image=folder / "a.png")
    assert best == "a.png"  # by its new content
    shutil.move(folder, folder.parent / "moved")
    report = sync(retriever, folder.parent / "moved")
    assert report.encoded == 0


def test_the_index_equals_one_that_was_made_at_once(retriever, folder):
    later = draw(folder / "z.png", 20)
    later.rename(folder.parent / "later.png")
    sync(retriever, folder)
    (folder.parent / "later.png").rename(later)
    sync(retriever, folder)
    (folder.parent / "index").rename(folder.parent / "grown")
    sync(retriever, folder)
    queries = {"image": folder / "a.png", "text": "make it red"}
    grown = Gallery.open(folder.parent / "grown", retriever).search(**queries)
    whole = Gallery.open(folder.parent / "index", retriever).search(**queries)
    assert [hit.path for hit in grown] == [hit.path for hit in whole]
    np.testing.assert_allclose(
        [hit.score for hit in grown], [hit.score for hit in whole], atol=1e-3
    )


def test_removed_features_stay_until_the_index_is_compacted(retriever, folder):
    sync(retriever, folder)
    kept = folder.parent / "kept"
    (folder / "a.png").rename(kept)
    sync(retriever, folder, watch_deleted=True)
    assert "a.png" not in names(retriever, folder)
    kept.rename(folder / "a.png")
    again = sync(retriever, folder)
    assert (again.encoded, counts(again)) == (0, {"new": 1, "unchanged": 5})
    with Indexing.at(folder.parent / "index", retriever) as index:
        assert counts(index.remove([folder / "sub"])) == {"deleted": 3}
        assert index.compact() == 3
        assert index.compact() == 0
        assert index.target.catalogue.counts()["kept of removed files"] == 0
    assert sorted(names(retriever, folder)) == ["a.png", "b.JPG", "f.gif"]
    assert sync(retriever, folder).encoded == 3


def test_what_a_disk_that_is_away_held_stays(retriever, folder, monkeypatch):
    table = folder.parent / "table.jsonl"
    table.write_text('{"path": "sub/c.webp", "price": 3}')
    (folder / "link.png").symlink_to(draw(folder.parent / "disk" / "x.png", 50))
    sync(retriever, folder, metadata=table)
    (folder / "sub").rename(folder.parent / "away")  # the place where a disk is mounted
    (folder / "sub").mkdir()
    (folder.parent / "disk").rename(folder.parent / "off")
    report = sync(retriever, folder)
    assert counts(report) == {"missing": 3, "unchanged": 3}
    assert [path.name for path in report.broken] == ["link.png"]
    assert report.missing_files().startswith("3 files are gone, but still in the index: ")
    assert len(names(retriever, folder)) == 7
    (folder / "sub").rmdir()
    (folder.parent / "away").rename(folder / "sub")

    listed = os.scandir

    def refuse(place):
        if str(place).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(place))
        return listed(place)

    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", refuse)
        report = sync(retriever, folder, watch_deleted=True)
    assert (counts(report), len(report.broken)) == ({"unchanged": 3}, 2)
    assert names(retriever, folder, text="red", where={"price": 3}) == ["sub/c.webp"]
    (folder / "link.png").unlink()
    assert counts(sync(retriever, folder, watch_deleted=True)) == {"deleted": 1, "unchanged": 6}


def test_adding_removes_nothing(retriever, folder):
    sync(retriever, folder)
    other = draw(folder.parent / "other" / "x.png", 30)
    (folder / "a.png").unlink()
    with Indexing.at(folder.parent / "index", retriever) as index:
        assert counts(index.add([other, folder / "sub"])) == {"new": 1, "unchanged": 3}
    with Indexing.at(folder.parent / "index", retriever) as index:
        assert counts(index.sync(folder, watch_deleted=True)) == {"unchanged": 5, "deleted": 1}
        assert other in index.target.catalogue.files()  # of another folder
        with pytest.raises(UserError, match=r"has no file .*nothing\.png, so nothing was removed"):
            index.remove([other, folder / "nothing.png"])
        assert other in index.target.catalogue.files()


def test_broken_files_are_named_and_the_rest_is_indexed(retriever, folder):
    (folder / "empty.jpg").touch()
    (folder / "page.png").write_text("<html>")
    (folder / "lost.png").symlink_to(folder / "nowhere.png")
    cut = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(cut[: len(cut) // 2])
    report = sync(retriever, folder)
    assert {path.name for path in report.broken} == {
        *("empty.jpg", "page.png", "lost.png", "a.png"),
    }
    assert counts(report) == {"new": 5}
    assert len(names(retriever, folder)) == 5
    with pytest.raises(UserError, match=r"^4 files cannot be read: .*lost\.png \(broken link\)"):
        report.check(skip_broken=False, way_out="pass --skip-broken")
    report.check(skip_broken=True, way_out="")
    (folder / "a.png").write_bytes(cut)
    assert sync(retriever, folder).encoded == 1
    (folder / "a.png").write_bytes(b"broken now")
    assert "a.png" in {path.name for path in sync(retriever, folder).broken}
    assert "a.png" not in names(retriever, folder)


def test_a_file_that_changes_while_it_is_read_is_left_for_the_next_time(
    retriever, folder, monkeypatch
):
    read = Retriever._read

    def change(self, path):
        found = read(self, path)
        if path.name == "a.png":
            draw(path, 99)
            os.utime(path, (5, 5))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Retriever, "_read", change)
        report = sync(retriever, folder)
    assert report.broken == {folder / "a.png": "changed while it was read"}
    assert sync(retriever, folder).encoded == 1


def test_a_picture_with_too_many_pixels_is_named(retriever, folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    report = sync(retriever, folder)
    assert len(report.broken) == 6
    assert "exceeds limit" in report.broken_files()


def test_links_to_folders_are_followed_once(retriever, folder):
    (folder / "sub" / "back").symlink_to(folder)
    (folder / ".hidden").mkdir()
    draw(folder / ".hidden" / "x.png", 40)
    draw(folder / "._a.png", 41)
    outside = draw(folder.parent / "outside" / "y.png", 42).parent
    (folder / "link").symlink_to(outside)
    found = photos.find_photos(folder)
    assert len(found) == 7
    assert folder / "link" / "y.png" in found


def test_a_folder_without_images_is_refused_before_anything_is_changed(retriever, folder):
    sync(retriever, folder)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=f"there is no folder {folder}; check the path"):
        sync(retriever, folder)
    folder.mkdir()
    (folder / "a.txt").touch()
    with pytest.raises(UserError, match="hold no image with an ending that Pillow reads"):
        sync(retriever, folder)
    with Indexing.at(folder.parent / "index", retriever) as index:
        assert len(index.target.catalogue.files()) == 6


def test_another_model_format_kind_or_place_is_refused(retriever, folder):
    sync(retriever, folder)
    path = folder.parent / "index"
    other = Retriever.from_pretrained("tiny")
    other.name, other.identity["weights"] = "runs/other", "0123"
    for use in (lambda: Gallery.open(path, other), lambda: sync(other, folder)):
        with pytest.raises(
            UserError, match=r"made by tiny with other weights .* than runs/other has \(0123\)"
        ):
            use()
    with pytest.raises(UserError, match=r"has the kind exact, not embedded"):
        sync(retriever, folder, kind="embedded")
    with pytest.raises(UserError, match=r"there is no index in .*nowhere; make one with"):
        Gallery.open(folder.parent / "nowhere", retriever)
    manifest = path / "index.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(UserError, match="has format 9, and this version reads format 1"):
        Gallery.open(path, retriever)
    good = manifest.read_text().replace('"format": 9', '"format": 1')
    for old, new in (("{", "["), ("weights", "weighps"), ("fp16", "fp17"), ('dim": 1', 'dim": 9')):
        assert old in good
        manifest.write_text(good.replace(old, new, 1))
        with pytest.raises(UserError, match=r"index\.json is damaged .*; put a copy back"):
            Gallery.open(path, retriever)
    refused = pytest.raises(UserError, match="holds other files and no index")
    with refused, Indexing.at(folder, retriever):
        pass
    assert not (folder / ".lock").exists()
    with pytest.raises(UserError, match="there is no kind 'best' of index"):
        sync(retriever, folder / "sub", kind="best")
    assert not (folder / "index").exists()


def test_two_processes_cannot_write_one_index(retriever, folder):
    with Indexing.at(folder.parent / "index", retriever) as index:
        index.sync(folder)
        with pytest.raises(UserError, match="is in use by another process"):
            sync(retriever, folder)
        assert len(names(retriever, folder)) == 6  # reading goes on


def test_a_damaged_segment_is_named_and_encoded_again(retriever, folder, monkeypatch):
    monkeypatch.setattr(indexing, "WRITE_IMAGES", 1)
    monkeypatch.setattr("gatedcir.gallery.retriever.AT_ONCE", 2)
    sync(retriever, folder)
    first, *others = sorted((folder.parent / "index" / "features").glob("*.safetensors"))
    assert len(others) == 2
    first.write_bytes(first.read_bytes()[:-5])
    with pytest.warns(UserWarning, match=f"{first} is damaged"):
        assert len(names(retriever, folder)) == 4
        target = IndexFolder.open(first.parents[1], read_manifest(first.parents[1]))
        info = info_of(target, check=True)
    assert (info["damaged files"], info["images without features"]) == ([str(first)], 2)
    first.unlink()
    report = sync(retriever, folder)
    assert (report.encoded, counts(report)) == (2, {"unchanged": 6})
    assert len(names(retriever, folder)) == 6


def test_a_lost_catalogue_is_made_again_without_encoding(retriever, folder):
    sync(retriever, folder)
    (folder.parent / "index" / "catalogue.sqlite").unlink()
    with pytest.raises(UserError, match="index the folder again: the features are kept"):
        Gallery.open(folder.parent / "index", retriever)
    report = sync(retriever, folder)
    assert (report.encoded, counts(report)) == (0, {"new": 6})
    assert len(names(retriever, folder)) == 6


KILLED = """
import os, sys
from pathlib import Path
from gatedcir.features import shards
from gatedcir.gallery import indexing, retriever
from gatedcir.search.catalogue import Catalogue

retriever.AT_ONCE = 2
indexing.WRITE_IMAGES = 1
at, place = int(sys.argv[1]), sys.argv[2]
seen = []

def killing(function, name):
    def call(*args, **settings):
        if name == place:
            seen.append(1)
            if len(seen) == at:
                os.kill(os.getpid(), 9)
        return function(*args, **settings)
    return call

shards.save_file = killing(shards.save_file, "before")
shards.os.fsync = killing(shards.os.fsync, "while")
Catalogue.add_images = killing(Catalogue.add_images, "between")
from gatedcir.gallery.retriever import Retriever
Retriever.from_pretrained("tiny").index(sys.argv[3], to=sys.argv[4])
"""


@pytest.mark.parametrize(
    ("at", "place", "left"), [(2, "before", 4), (3, "while", None), (3, "between", 2)]
)
def test_what_was_written_before_a_kill_is_there(at, place, left, retriever, folder):
    """`between` is after a segment was written, and before its files were noted."""
    index = folder.parent / "index"
    command = [sys.executable, "-c", KILLED, str(at), place, str(folder), str(index)]
    done = forked.call(command, dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr
    report = sync(retriever, folder)
    assert report.encoded == left if left is not None else report.encoded in (2, 4, 6)
    assert len(names(retriever, folder)) == 6
    assert not list(index.rglob("*.unfinished"))
    assert len(list(index.rglob("*.safetensors"))) <= 3


def test_features_are_written_after_some_seconds_too(retriever, folder, monkeypatch):
    monkeypatch.setattr("gatedcir.gallery.retriever.AT_ONCE", 1)
    clock = iter(range(0, 1000, 21))
    monkeypatch.setattr(indexing, "time", type("Time", (), {"monotonic": lambda: next(clock)}))
    with Indexing.at(folder.parent / "index", retriever) as index:
        index.sync(folder)
        assert index.target.stored.info()["segments"] == 6


def test_ctrl_c_keeps_what_was_encoded(retriever, folder, monkeypatch):
    monkeypatch.setattr("gatedcir.gallery.retriever.AT_ONCE", 2)
    encode, calls = Retriever.encode_pixels, []

    def stop(self, pixels):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, pixels)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Retriever, "encode_pixels", stop)
        sync(retriever, folder)
    assert sync(retriever, folder).encoded == 2


def test_a_full_disk_is_one_sentence_and_loses_nothing(retriever, folder, monkeypatch):
    sync(retriever, folder)
    draw(folder / "new.png", 50)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="make room, or write to"):
        patch.setattr("gatedcir.features.shards.save_file", full)
        sync(retriever, folder)
    assert len(names(retriever, folder)) == 6
    assert sync(retriever, folder).encoded == 1


@pytest.mark.parametrize("name", ["catalogue.sqlite", "features/pipe"])
def test_an_index_with_a_pipe_is_refused_and_not_waited_for(retriever, folder, name):
    sync(retriever, folder)
    place = folder.parent / "index" / name
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    with pytest.raises(UserError, match=f"{place} is a pipe or a device"):
        Gallery.open(folder.parent / "index", retriever)
