"""A shard whose bytes change after it was written is named and not used."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gatedcir.errors import UserError
from gatedcir.features import shards
from gatedcir.features.shards import Entry, ImageFile, ShardSource
from gatedcir.files import NotReadError

NAMES = ["a", "b", "c"]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def levels(request):
    """Two layers of three images."""
    shapes = [(3, 4, 2), (3, 1, 2)]
    return [torch.randn(shape).to(request.param) for shape in shapes]


@pytest.fixture
def shard(tmp_path, levels):
    path = tmp_path / "one.safetensors"
    shards.write(path, [Entry(name, ImageFile(1, 2, "3")) for name in NAMES], levels)
    return path


def opened(shard):
    return ShardSource({name: (shard, row) for row, name in enumerate(NAMES)})


def flip(shard: Path, place: int):
    content = bytearray(shard.read_bytes())
    content[place] ^= 1
    shard.write_bytes(content)


def test_features_are_read_as_written(shard, levels):
    source = opened(shard)
    for _ in range(2):
        for row, name in enumerate(NAMES):
            assert all(
                torch.equal(f, level[row]) for f, level in zip(source[name], levels, strict=True)
            )


def test_a_changed_name_is_found_before_features_are_read(shard):
    shapes = [(4, 2), (1, 2)]
    content = shard.read_bytes()
    for before, after in ((b'[\\"b\\",', b'[\\"d\\",'), (b'\\"3\\"', b'\\"4\\"')):
        assert before in content
        shard.write_bytes(content.replace(before, after, 1))
        with pytest.raises(UserError, match="names of its images have another checksum"):
            shards.read_entries(shard, shapes, torch.float32)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
def test_a_shard_that_was_not_read_is_not_called_damaged(shard, monkeypatch, code):
    def fails(*_):
        raise OSError(f"{os.strerror(code)} (os error {code})")  # as the library has it

    monkeypatch.setattr(shards, "safe_open", fails)
    with pytest.raises(NotReadError, match=rf"^{shard} cannot be read \({os.strerror(code)}\)"):
        shards.read_entries(shard, [], torch.float32)
    with pytest.raises(NotReadError):
        opened(shard)["a"]


def test_one_changed_bit_is_found_at_the_first_reading(shard, levels):
    flip(shard, -1)  # of the last layer of the last image
    source = opened(shard)
    assert torch.equal(source["a"][0], levels[0][0])
    for _ in range(2):
        with pytest.raises(UserError, match=r"one\.safetensors is damaged .* of c .*; delete it"):
            source["c"]
    assert torch.equal(source["b"][1], levels[1][1])


@pytest.mark.parametrize("read_before", [True, False])
def test_a_shard_that_is_cut_while_it_is_read_is_named(shard, read_before):
    source = opened(shard)
    if read_before:
        source["a"]
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match=r"one\.safetensors is damaged or cut short"):
        source["b"]


def test_a_shard_that_is_deleted_while_it_is_read_is_named(shard):
    source = opened(shard)
    shard.unlink()
    with pytest.raises(UserError, match=r"one\.safetensors .*No such file"):
        source["b"]


def test_a_shard_of_an_earlier_version_still_opens(shard, levels):
    with safe_open(shard, "pt") as content:
        metadata = content.metadata()
    assert len(json.loads(metadata.pop("crc32"))) == len(NAMES)
    save_file(load_file(shard), shard, metadata=metadata)
    assert torch.equal(opened(shard)["b"][0], levels[0][1])
