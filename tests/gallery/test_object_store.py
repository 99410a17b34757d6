"""The images of an object store, copied and indexed. The store is fsspec's own, in memory."""

import io

import fsspec
import numpy as np
import pytest
from PIL import Image

from gatedcir.commands import index as command
from gatedcir.errors import UserError
from gatedcir.gallery.object_store import ObjectStore


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


@pytest.fixture
def store():
    """Three images and what is none: another ending, a hidden file."""
    files = fsspec.filesystem("memory")
    for seed, name in enumerate(("a.png", "sub/b.PNG", "sub/deep/c.png")):
        files.pipe(f"/shop/{name}", picture(seed))
    files.pipe("/shop/notes.txt", b"none")
    files.pipe("/shop/.hidden/d.png", picture(3))
    yield files
    files.rm("/shop", recursive=True)


def copy(index, **settings):
    return ObjectStore.open("memory://shop").copy_to(
        index, **({"num_workers": 2, "watch_deleted": False} | settings)
    )


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.[pP]*"))


def test_each_object_is_copied_once_and_again_when_it_changes(store, tmp_path, monkeypatch):
    folder = copy(tmp_path)
    assert names(folder) == ["a.png", "sub/b.PNG", "sub/deep/c.png"]
    copied = []
    get = store.get_file
    monkeypatch.setattr(type(store), "get_file", lambda _, *a: (copied.append(a[0]), get(*a)))
    copy(tmp_path)
    assert not copied
    store.pipe("/shop/a.png", picture(7) + b"longer")
    store.pipe("/shop/e.png", picture(8))
    (folder / "sub" / "b.PNG").unlink()
    copy(tmp_path)
    assert sorted(copied) == ["/shop/a.png", "/shop/e.png", "/shop/sub/b.PNG"]
    assert (folder / "a.png").read_bytes() == picture(7) + b"longer"


def test_copies_of_objects_that_are_gone_stay_until_they_are_watched(store, tmp_path):
    folder = copy(tmp_path)
    store.rm("/shop/a.png")
    copy(tmp_path)
    assert "a.png" in names(folder)
    copy(tmp_path, watch_deleted=True)
    assert names(folder) == ["sub/b.PNG", "sub/deep/c.png"]


def test_an_object_that_cannot_be_copied_leaves_the_others(store, tmp_path, monkeypatch):
    get = store.get_file

    def fail(_, place, *more):
        if place.endswith("b.PNG"):
            raise ConnectionError("the line is dead")
        get(place, *more)

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "get_file", fail)
        with pytest.raises(UserError, match=r"1 of 3 objects .* sub/b.PNG \(the line is dead\)"):
            copy(tmp_path)
    assert names(tmp_path / "images") == ["a.png", "sub/deep/c.png"]
    (tmp_path / "images.json").write_text("{")  # damaged: all is copied again
    assert len(names(copy(tmp_path))) == 3


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nosuch://shop", "nosuch://shop cannot be listed"),
        ("memory://empty", "holds no image"),
        ("memory://out", "leads out of a folder"),
    ],
)
def test_an_address_without_images_leaves_no_index(store, tmp_path, address, said):
    store.store["/out/../../x.png"] = store.store["/shop/a.png"]
    try:
        with pytest.raises(UserError, match=said):
            command.main(["--fetch", address, "--model-path", "tiny", "--output", str(tmp_path)])
    finally:
        del store.store["/out/../../x.png"]
    assert not list(tmp_path.iterdir())


def test_the_command_indexes_the_copies(store, tmp_path, capsys):
    flags = ["--fetch", "memory://shop", "--output", str(tmp_path / "index")]
    command.main([*flags, "--model-path", "tiny"])
    assert "3 new" in capsys.readouterr().out
    store.rm("/shop/a.png")
    command.main([*flags, "--watch-deleted"])
    assert "2 unchanged" in (said := capsys.readouterr().out)
    assert "1 deleted" in said
    with pytest.raises(UserError, match="--images and --fetch"):
        command.main([*flags, "--images", str(tmp_path)])
