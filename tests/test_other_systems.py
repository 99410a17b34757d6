"""What Windows and macOS lack is taken away here: modules, signals, fork, open files that move."""

import ast
import os
import pickle
import re
import runpy
import signal
import sys
import time
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import psutil
import pytest
import torch
from conftest import SHORT
from filelock import FileLock

import blip_fine_tune_2
from gatedcir import children, files, resources
from gatedcir.benchmarks import places
from gatedcir.errors import UserError
from gatedcir.features.folder import FeatureFolder
from gatedcir.training.trainer import Trainer

SOURCE = Path(files.__file__).parent
UNIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
UNIX_CALLS = (
    *("fork", "forkpty", "getuid", "geteuid", "getgid", "getpgid", "killpg", "mkfifo", "mknod"),
    *("posix_fallocate", "sched_getaffinity", "setsid", "statvfs", "sync", "uname", "wait3"),
)


def needed(tree):
    """The modules that are imported where nothing catches their absence."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif not isinstance(node, ast.Try):
            yield from needed(node)


def test_no_module_needs_what_only_unix_has():
    for file in SOURCE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not UNIX_MODULES & set(needed(ast.parse(text))), file
        for call in re.findall(r"\bos\.(\w+)", text):
            assert call not in UNIX_CALLS or f'hasattr(os, "{call}")' in text, (file, call)
        for name in re.findall(r"\bsignal\.(SIG(?!INT|TERM|_)\w+|alarm)", text):
            assert f'"{name}"' in text or "hasattr(signal" in text, (file, name)
    assert set(needed(ast.parse("import pwd"))) == {"pwd"}  # the test would see it


def test_limits_and_memory_without_the_module_resource(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    found = runpy.run_path(files.__file__)
    assert found["resource"] is None and found["_limit"]() == ""
    found = runpy.run_path(resources.__file__)
    assert found["largest_file"]() is None
    windows = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=7))
    monkeypatch.setattr(psutil, "Process", lambda: windows)
    assert found["peak_memory"](torch.device("cpu")) == 7


def test_signals_of_windows(monkeypatch):
    monkeypatch.delattr(signal, "SIGUSR1")
    monkeypatch.delattr(signal, "alarm")
    found = runpy.run_path(children.__file__)
    assert found["ASKS"] == [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.getsignal(number) for number in found["ASKS"]}
    try:
        found["outlive_signals"](0)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("more", [[], ["--extra-captions", "CAPTIONS"], ["--noise", "0.5"]])
def test_loading_processes_can_be_started_without_fork(home, tmp_path, monkeypatch, more):
    """Those get their work as bytes, which closures cannot become."""

    class Looked(BaseException):
        pass

    def look(trainer, *_):
        loader = trainer.loader
        content = (loader.dataset, loader.worker_init_fn, loader.collate_fn)
        elsewhere, begin, _ = pickle.loads(pickle.dumps(content))
        assert begin is loader.worker_init_fn
        batch = next(iter(loader.sampler))
        one, two = loader.dataset[batch], elsewhere[batch]
        assert torch.equal(one.images, two.images) and one.texts == two.texts
        raise Looked

    captions = str(home / "cirr_dataset" / "cirr" / "captions" / "cap.rc2.train.json")
    monkeypatch.setattr(Trainer, "train_epoch", look)
    flags = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset", *SHORT]
    flags += ["--cache-features", "none", "--output", tmp_path / "run"]
    with pytest.raises(Looked):
        blip_fine_tune_2.main([str(flag).replace("CAPTIONS", captions) for flag in [*flags, *more]])


def test_a_file_that_is_read_elsewhere_is_replaced_a_little_later(tmp_path, monkeypatch):
    file, replace, waited = tmp_path / "a", Path.replace, []
    files.write_text(file, "old")

    def is_open(path, target):
        if len(waited) < busy:
            raise PermissionError(13, "is open", str(target))
        return replace(path, target)

    monkeypatch.setattr(files, "_WINDOWS", True)
    monkeypatch.setattr(Path, "replace", is_open)
    monkeypatch.setattr(time, "sleep", waited.append)
    busy = 2
    files.write_text(file, "new")
    assert file.read_text() == "new" and len(waited) == 2
    waited.clear()
    busy = 9
    with pytest.raises(PermissionError):
        files.write_text(file, "newer")
    assert file.read_text() == "new" and [*tmp_path.iterdir()] == [file]


def test_a_lock_that_is_open_stays(tmp_path, monkeypatch):
    """Windows removes no open file."""

    def is_open(path, missing_ok=False):
        raise PermissionError(13, "is open", str(path))

    folder = FeatureFolder(tmp_path, {}, [(1, 1)], torch.float32)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", is_open)
        with folder._claim(["a"]) as shard:
            shard.touch()
    lock = next(tmp_path.glob("*.lock"))
    with FileLock(lock, timeout=0):
        pass


@pytest.mark.parametrize("name", ["..\\a", "C:\\a", "C:a", "\\a", "\\\\server\\a\\a", "/a", "../a"])
def test_names_of_windows_do_not_lead_out_of_the_folder(monkeypatch, name):
    monkeypatch.setattr(places, "Path", PureWindowsPath)
    with pytest.raises(UserError, match="leads out of the folder"):
        places.places_by_name([(name, Path("a.png"))], Path())
    found = places.places_by_name([("b/c", Path("a.png"))], Path())
    assert list(found.values()) == [PureWindowsPath("images/b/c.png")]
    assert os.sep == "/"  # else this would be no emulation
