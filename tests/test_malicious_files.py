"""Files made to run code or to use up memory are refused, and nothing in them runs."""

import json
import pickle
import shutil
import struct
import sys
import zipfile
import zlib

import numpy as np
import pytest
import torch
from conftest import bad

from gatedcir.commands import describe, train
from gatedcir.data.readable import why_unreadable
from gatedcir.errors import UserError
from gatedcir.features.shards import read_entries
from gatedcir.models.weights import sources
from gatedcir.options.parsing import read_yaml
from gatedcir.run_folder import checkpoint


class RunsCode:
    """Unpickling makes a file."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return open, (str(self.place), "w")


@pytest.fixture
def mark(tmp_path):
    """A file that appears if code ran."""
    place = tmp_path / "ran"
    yield place
    assert not place.exists()


@pytest.mark.parametrize("ending", [".pt", ".pth", ".npy", ".bin", ".safetensors"])
@pytest.mark.parametrize("way", ["torch", "pickle", "numpy"])
def test_pickled_code_is_never_run(tmp_path, mark, ending, way):
    file = tmp_path / f"weights{ending}"
    code = {"model": RunsCode(mark)}
    if way == "torch":
        torch.save(code, file)
    elif way == "pickle":
        file.write_bytes(pickle.dumps(code))
    else:
        with file.open("wb") as opened:
            np.save(opened, np.array([RunsCode(mark)], dtype=object), allow_pickle=True)
    message = bad(describe, ["--model-path", file], str(file))
    assert "could run code" in message or "no file that torch.save wrote" in message


def test_the_guard_of_these_tests_would_see_it(tmp_path):
    pickle.loads(pickle.dumps(RunsCode(tmp_path / "ran"))).close()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", [2**62, 2**31, 10**8])
def test_a_safetensors_header_of_any_size_is_refused(tmp_path, size):
    file = tmp_path / "a.safetensors"
    file.write_bytes(struct.pack("<Q", size) + b"{}")
    with pytest.raises(UserError, match="damaged or cut short"):
        read_entries(file, [(1, 1)], torch.float32)


def test_yaml_makes_no_objects(tmp_path, mark):
    file = tmp_path / "a.yaml"
    file.write_text(f"dataset: !!python/object/apply:builtins.open ['{mark}', 'w']\n")
    with pytest.raises(UserError, match="is not valid YAML"):
        read_yaml(file)
    bad(train, ["--config", file])


def test_a_hub_folder_with_code_runs_none_of_it(tmp_path, mark):
    code = f"open({str(mark)!r}, 'w')\n"
    (tmp_path / "modeling.py").write_text(code)
    config = {
        "model_type": "own",
        "architectures": ["Own"],
        "auto_map": {"AutoConfig": "modeling.Own", "AutoModel": "modeling.Own"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(tmp_path / "modeling.py", tmp_path / "tokenization.py")
    before = set(sys.modules)
    with pytest.raises(UserError):
        sources.load(str(tmp_path))
    assert not any(name.split(".")[-1] == "modeling" for name in set(sys.modules) - before)


def png(width, height, rows):
    """A PNG in grey with these compressed rows."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def test_a_checkpoint_that_grows_when_it_is_read_is_refused(tmp_path):
    good, bomb = tmp_path / "good.pt", tmp_path / "bomb.pt"
    torch.save({"a": torch.zeros(10**6)}, good)
    with zipfile.ZipFile(good) as parts, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as small:
        for part in parts.namelist():
            small.writestr(part, parts.read(part))
    assert 100 * bomb.stat().st_size < good.stat().st_size
    assert torch.load(bomb, weights_only=True)["a"].shape == (10**6,)  # torch would read it
    for read in (checkpoint.read, lambda file: sources.load(str(file))):
        with pytest.raises(UserError, match="damaged or no file that torch"):
            read(bomb)


def test_bombs_of_pixels_are_refused_before_they_are_decoded(tmp_path):
    file = tmp_path / "bomb.png"
    file.write_bytes(png(60_000, 60_000, zlib.compress(bytes(10_000))))
    assert why_unreadable(file) == "too many pixels"


def test_more_data_than_pixels_are_left_alone(tmp_path):
    file = tmp_path / "long.png"
    file.write_bytes(png(4, 4, zlib.compress(bytes(2**24))))
    assert why_unreadable(file) in (None, "cut short or damaged")
