"""Checkpoints survive crashes and refuse what is none."""

import errno
import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch

from gatedcir.errors import UserError
from gatedcir.files import NotReadError, write_json
from gatedcir.run_folder import checkpoint
from gatedcir.run_folder.checkpoint import BEFORE, LAST, Checkpoint, find, goes_on, load, save
from gatedcir.run_folder.provenance import provenance
from gatedcir.training.resume import _newest


def make(epoch=1, **changes):
    values = {
        "weights": {"temp": torch.tensor(0.07), "a.weight": torch.randn(3, 4)},
        "backbone": {"num_query_tokens": 4, "vision_config": {"hidden_size": 8}},
        "tokenizer": '{"model": {}}',
        "config": {"dataset": "CIRR", "data-path": None},
        "provenance": {"git": "unknown"},
        "epoch": epoch,
        "metrics": {"R@1": 12.5},
    }
    return Checkpoint(**{**values, **changes})


def refused(path):
    """The message, one line without an inner full stop."""
    with pytest.raises(UserError) as error:
        load(path)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert message.endswith(".")
    assert ". " not in message
    assert str(path) in message
    return message


class _RunsCode:
    """Unpickling an instance makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_round_trip(tmp_path):
    trainer = {"optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}, "best": float("-inf")}
    saved = make(trainer=trainer)
    path = tmp_path / "new" / "folder" / "best.pt"
    save(path, saved)
    found = load(path)
    assert found.weights.keys() == saved.weights.keys()
    for name, value in saved.weights.items():
        assert torch.equal(found.weights[name], value)
    for name in ("backbone", "tokenizer", "config", "provenance", "epoch", "metrics", "trainer"):
        assert getattr(found, name) == getattr(saved, name)
    assert [file.name for file in path.parent.iterdir()] == ["best.pt"]


def test_a_crash_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save(path, make(epoch=1))

    def crash(content, file):
        Path(file).write_bytes(b"half a fi")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", crash)
        with pytest.raises(OSError, match="no space"):
            save(path, make(epoch=2))
    assert load(path).epoch == 1
    save(path, make(epoch=3))
    assert load(path).epoch == 3
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_the_file_before_is_kept(tmp_path, monkeypatch):
    path, before = tmp_path / "last.pt", tmp_path / "before_last.pt"
    for epoch in (1, 2, 3):
        save(path, make(epoch=epoch), before=before.name)
        assert load(path).epoch == epoch
        assert before.exists() == (epoch > 1)
    assert load(before).epoch == 2

    def no_links(*_):
        raise OSError(errno.EPERM, "not on this disk")

    monkeypatch.setattr(os, "link", no_links)
    save(path, make(epoch=4), before=before.name)
    assert (load(path).epoch, load(before).epoch) == (4, 3)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["before_last.pt", "last.pt"]


def test_a_changed_bit_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "best.pt"
    save(path, make())
    content = path.read_bytes()
    [place] = [m.start() for m in re.finditer(re.escape(make_weight(path)), content)]
    for where in (place, *range(0, len(content), 97)):
        changed = bytearray(content)
        changed[where] ^= 4
        path.write_bytes(changed)
        try:
            found = load(path)
        except UserError:
            continue
        assert where != place
        path.write_bytes(content)
        assert str(found) == str(load(path))


def make_weight(path):
    return load(path).weights["a.weight"].numpy().tobytes()


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_truncated_file(tmp_path, kept):
    path = tmp_path / "best.pt"
    save(path, make())
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    refused(path)


def fails_with(monkeypatch, error):
    def load_file(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", load_file)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_a_file_that_was_not_read_is_not_called_damaged(tmp_path, monkeypatch, code):
    path, before = tmp_path / LAST, tmp_path / BEFORE
    for file in (path, before):
        save(file, make())
    fails_with(monkeypatch, OSError(code, os.strerror(code)))
    with pytest.raises(NotReadError, match=f"^{path} cannot be read .* and may be good"):
        load(path)
    with pytest.raises(NotReadError):  # the state before does not take its place
        _newest(tmp_path)
    assert path.is_file() and before.is_file()


def test_a_lack_of_memory_is_not_a_damage_of_a_good_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save(path, make())
    content = path.read_bytes()
    fails_with(monkeypatch, RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    with pytest.raises(RuntimeError, match="can't allocate"):
        load(path)
    path.write_bytes(content[:-100])
    assert "is damaged" in refused(path)


@pytest.mark.parametrize("text", ["hello world\n", "dataset: CIRR\n", "{}", "\0" * 1000])
def test_other_file(tmp_path, text):
    path = tmp_path / "text.pt"
    path.write_text(text)
    refused(path)


@pytest.mark.parametrize(
    "content",
    [
        torch.ones(2),
        {"weights": {"a": torch.ones(2)}},
        {"format": "gatedcir-0"},
        {"format": torch.ones(1)},
        [1, 2],
    ],
)
def test_other_torch_file(tmp_path, content):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    assert "not a checkpoint of this project" in refused(path)


@pytest.mark.parametrize(
    ("part", "value", "kind"),
    [("config", 5, "int"), ("weights", [], "list"), ("epoch", "1", "str"), ("metrics", None, "N")],
)
def test_a_part_of_another_kind(tmp_path, part, value, kind):
    path = tmp_path / "best.pt"
    save(path, make())
    torch.save({**torch.load(path, weights_only=True), part: value}, path)
    assert f"is a damaged checkpoint, whose {part} is a {kind}" in refused(path)


def test_a_file_that_would_run_code(tmp_path):
    made = tmp_path / "made"
    as_torch, as_pickle = tmp_path / "torch.pt", tmp_path / "pickle.pt"
    torch.save({"format": checkpoint.FORMAT, "weights": _RunsCode(made)}, as_torch)
    as_pickle.write_bytes(pickle.dumps(_RunsCode(made), protocol=2))
    for path in (as_torch, as_pickle):
        assert "was not opened" in refused(path)
        assert not made.exists()
    pickle.loads(as_pickle.read_bytes())  # without the guard it does
    assert made.is_dir()


def test_missing_path_and_empty_run_folder(tmp_path):
    refused(tmp_path / "none.pt")
    refused(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert "a run that kept its weights" in refused(tmp_path)


@pytest.mark.parametrize("name", ["last.pt", "before_last.pt"])
def test_a_run_goes_on_from_either_state(tmp_path, name):
    save(tmp_path / "checkpoints" / "best.pt", make())
    assert not goes_on(tmp_path)
    save(tmp_path / "checkpoints" / name, make())
    assert goes_on(tmp_path)


def test_run_folder_prefers_the_best(tmp_path):
    save(tmp_path / "checkpoints" / "last.pt", make(epoch=2))
    assert find(tmp_path).name == "last.pt"
    assert load(tmp_path).epoch == 2
    save(tmp_path / "checkpoints" / "best.pt", make(epoch=1))
    assert find(tmp_path).name == "best.pt"
    assert load(tmp_path).epoch == 1
    assert load(tmp_path / "checkpoints" / "last.pt").epoch == 2


def test_provenance_is_plain_and_names_what_matters():
    found = provenance()
    assert json.loads(json.dumps(found)) == found
    assert found["git"]
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["devices"]


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
