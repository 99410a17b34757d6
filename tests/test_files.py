"""What is written appears whole or not at all, and nothing of others is removed."""

import ast
import errno
import os
import re
import resource
import stat
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gatedcir.errors import UserError
from gatedcir.files import room_for, whole_file, whole_folder, write_text

ROOT = Path(__file__).parents[1]


def test_a_file_appears_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as unfinished:
        unfinished.write_text("one")
        assert not path.exists()
        assert unfinished.parent.parent == path.parent  # so that the name changes on one disk
    assert path.read_text() == "one"
    with whole_file(path) as unfinished:
        unfinished.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert os.listdir(path.parent) == ["a.txt"]  # noqa: PTH208


def test_a_folder_appears_at_the_end(tmp_path):
    path = tmp_path / "new" / "data"
    with whole_folder(path) as unfinished:
        (unfinished / "deep").mkdir()
        (unfinished / "deep" / "a.txt").write_text("one")
        assert not path.exists()
    assert (path / "deep" / "a.txt").read_text() == "one"
    assert [place.name for place in path.parent.iterdir()] == ["data"]


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
@pytest.mark.parametrize("error", [ValueError("a defect"), KeyboardInterrupt()])
def test_an_error_leaves_nothing_and_takes_nothing(tmp_path, whole, error):
    others = [tmp_path / name for name in ("mine.unfinished", ".mine.unfinished", "mine.tmp")]
    for folder in others:
        folder.mkdir()
        (folder / "thesis.txt").write_text("precious")
    with pytest.raises(type(error)), whole(tmp_path / "mine") as unfinished:
        file = unfinished / "part" if unfinished.is_dir() else unfinished
        file.write_text("half")
        raise error
    assert sorted(tmp_path.iterdir()) == sorted(others)
    assert all((folder / "thesis.txt").read_text() == "precious" for folder in others)


def test_two_writers_do_not_meet(tmp_path):
    with whole_file(tmp_path / "a") as first, whole_file(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"  # whose block ends last


def test_an_empty_folder_is_filled_and_another_kept(tmp_path):
    (tmp_path / "empty").mkdir()
    with whole_folder(tmp_path / "empty") as unfinished:
        (unfinished / "a").touch()
    assert (tmp_path / "empty" / "a").is_file()
    with pytest.raises(OSError), whole_folder(tmp_path / "empty"):  # no longer
        pass
    assert (tmp_path / "empty" / "a").is_file()


def test_permissions_are_those_of_any_new_file(tmp_path):
    old = os.umask(0o022)
    try:
        with whole_file(tmp_path / "file") as unfinished:
            unfinished.touch()
        with whole_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(old)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "folder")]
    assert modes == [0o644, 0o755]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "disk" / "real").touch()
    (tmp_path / "file").symlink_to(tmp_path / "disk" / "real")
    with whole_file(tmp_path / "file") as unfinished:
        unfinished.write_text("new")
    with whole_folder(tmp_path / "run" / "data") as unfinished:
        (unfinished / "a").touch()
    assert (tmp_path / "file").is_symlink() and (tmp_path / "run").is_symlink()
    assert (tmp_path / "disk" / "real").read_text() == "new"
    assert (tmp_path / "disk" / "data" / "a").is_file()


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced, sync = set(), os.fsync

    def spy(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    with whole_folder(tmp_path / "data") as unfinished:
        (unfinished / "deep").mkdir()
        (unfinished / "deep" / "a").touch()
    with whole_file(tmp_path / "b") as unfinished:
        unfinished.touch()
    assert {place.stat().st_ino for place in (tmp_path, *tmp_path.rglob("*"))} <= synced


@contextmanager
def files_of_at_most(size):
    """As a full disk, for this process alone."""
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


WRITERS = {
    "torch": lambda tensor, path: torch.save({"a": tensor}, path),
    "safetensors": lambda tensor, path: save_file({"a": tensor}, path),
    "Python": lambda tensor, path: path.write_bytes(tensor.numpy().tobytes()),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_no_room_is_told_with_the_file_and_the_size(tmp_path, write):
    path = tmp_path / "good"
    path.write_text("good")
    tensor = torch.zeros(500_000)
    room = r"it needs 2\.0 MB, and .* one file may have 0\.2 MB at most"
    with (
        pytest.raises(UserError, match=rf"^{path} could not be written .*{room}"),
        files_of_at_most(200_000),
        whole_file(path, size=tensor.nbytes) as unfinished,
    ):
        write(tensor, unfinished)
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]
    with (
        pytest.raises(UserError, match=f"^{tmp_path / 'new'} could not be written"),
        files_of_at_most(200_000),
        whole_folder(tmp_path / "new") as unfinished,
    ):
        write(tensor, unfinished / "a")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_and_a_quota_are_told_apart(tmp_path, code):
    with pytest.raises(UserError, match=os.strerror(code)), room_for(tmp_path / "deep" / "a"):
        raise OSError(code, "in any words")


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS])
def test_a_disk_that_fails_leaves_the_old_file(tmp_path, monkeypatch, code):
    path = tmp_path / "good"
    write_text(path, "good")

    def fails(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync" if code == errno.EIO else "mkdir", fails)
    told = rf"^{path} could not be .* it needs 2\.0 MB, and its disk does not take it"
    with (
        pytest.raises(UserError, match=told),
        whole_file(path, size=2_000_000) as unfinished,
    ):
        unfinished.write_text("new")
    monkeypatch.undo()
    assert path.read_text() == "good" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_removed_does_not_hide_what_failed(tmp_path, monkeypatch):
    """A disk that may suddenly only be read."""

    def closed(path, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(Path, "replace", closed)
    monkeypatch.setattr(os, "unlink", closed)  # of a name without its folder
    told = f"^{tmp_path / 'table'} could not be written .*its disk does not take it"
    with pytest.raises(UserError, match=told):
        write_text(tmp_path / "table", "content")


@pytest.mark.parametrize(
    "words",
    ["unexpected pos 64 vs 0", "PytorchStreamWriter failed writing file", "basic_ios::clear: io"],
)
def test_a_full_disk_is_known_by_the_words_of_torch(tmp_path, words):
    with pytest.raises(UserError, match="no room for it"), room_for(tmp_path / "last.pt"):
        raise RuntimeError(words)


def test_a_library_may_name_the_file_in_bytes(tmp_path):
    """As TensorBoard's does."""
    error = OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsencode(tmp_path / "b" / "events"))
    with pytest.raises(UserError, match="its disk does not take it"), room_for(tmp_path / "b"):
        raise error


def test_free_space_is_looked_at_before(tmp_path):
    told = r"it needs 1000000000000\.0 MB, and"
    with pytest.raises(UserError, match=told), whole_file(tmp_path / "a", size=10**18):
        pytest.fail("it was begun")


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(OSError, match="an image"), room_for(tmp_path / "a"):
        raise OSError(errno.EIO, "of a file that is read", "/elsewhere/an image")
    with pytest.raises(RuntimeError, match="a defect"), room_for(tmp_path / "a"):
        raise RuntimeError("a defect")


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_pipes_and_folders_are_not_replaced(tmp_path, kind):
    place = tmp_path / kind
    os.mkfifo(place) if kind == "pipe" else place.mkdir()
    with pytest.raises(UserError, match="and no file; name another path"):
        write_text(place, "content")
    assert not place.is_file() and list(tmp_path.iterdir()) == [place]


def test_libraries_do_not_take_rights_away(tmp_path):
    """safetensors makes files that only their owner can read."""
    plain = tmp_path / "plain"
    plain.touch()
    with whole_file(tmp_path / "one") as unfinished:
        unfinished.touch(0o600)
    with whole_folder(tmp_path / "folder") as unfinished:
        (unfinished / "two").touch(0o600)
    for found in (tmp_path / "one", tmp_path / "folder" / "two"):
        assert found.stat().st_mode == plain.stat().st_mode


def test_who_calls_a_file_damaged_asks_first_whether_it_was_read():
    """Every handler of errors of reading, anywhere in the package."""
    asked = 0
    for file in sorted((ROOT / "src" / "gatedcir").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ExceptHandler) or node.type is None:
                continue
            body = "\n".join(map(ast.unparse, node.body))
            if re.search(r"OSError|\bException\b", ast.unparse(node.type)) and "damaged" in body:
                assert "check_was_read(" in body, f"{file}, line {node.lineno}"
                asked += 1
    assert asked > 8
