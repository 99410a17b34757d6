"""Features in a folder: made once, completed, shared, refused where they do not fit."""

import json
import multiprocessing
import os
import pickle
import re
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from gatedcir.data.sources import PixelSource, batches
from gatedcir.data.transforms import make_transform
from gatedcir.errors import UserError
from gatedcir.features import folder as feature_folder
from gatedcir.features import shards
from gatedcir.features.encode import cache_in_memory
from gatedcir.features.folder import FeatureFolder

SIZE, BATCH = 4, 2
NAMES = [f"image{i}" for i in (3, 0, 6, 1, 5, 2, 4)]
SHAPES = [(16, 3), (2, 3)]
SETTINGS = {"vision tower": "abc", "transform": "clip"}
ROW = (16 * 3 + 2 * 3) * 4  # bytes


def encode(pixels):
    """Two layers of different shapes, without sums, so that batches change no bit."""
    tokens = pixels.flatten(2).transpose(1, 2)  # [B, L, 3]
    return [tokens * 2, tokens[:, :2].square()]


@pytest.fixture
def source(tmp_path):
    generator = np.random.default_rng(0)
    paths = {}
    (tmp_path / "images").mkdir()
    for name in NAMES:
        paths[name] = tmp_path / "images" / f"{name}.png"
        pixels = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(paths[name])
    return PixelSource(paths, make_transform("clip", size=SIZE))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Shards of two images."""
    monkeypatch.setattr(feature_folder, "SHARD_BYTES", 3 * ROW)
    monkeypatch.setattr(feature_folder, "_PAUSE", 0.01)
    return FeatureFolder.below(tmp_path / "cache", SETTINGS, shapes=SHAPES, dtype=torch.float32)


def fill(folder, source, encode=encode, **settings):
    folder.fill(
        source, encode, **{"batch_size": BATCH, "num_workers": 0, "progress": False, **settings}
    )


def some(source, names):
    return replace(source, paths={name: source.paths[name] for name in names})


def counting():
    seen = []

    def noting(pixels):
        seen.append(len(pixels))
        return encode(pixels)

    return noting, seen


def files(folder):
    return sorted(file.name for file in folder.path.iterdir())


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_it_holds_what_memory_would(source, folder):
    fill(folder, source)
    assert len(files(folder)) == 1 + 4  # the manifest, and seven images in shards of two
    assert folder.bytes_per_image == ROW
    expected = cache_in_memory(source, encode, batch_size=3, num_workers=0, progress=False)
    on_disk, in_memory = folder.open(source.paths), folder.load(source.paths)
    for name in NAMES:
        assert same(on_disk[name], expected[name])
        assert same(in_memory[name], expected[name])
    for workers in (0, 1):
        found = list(batches(on_disk, NAMES, batch_size=3, num_workers=workers))
        wanted = list(batches(expected, NAMES, batch_size=3, num_workers=0))
        assert all(same(a, b) for a, b in zip(found, wanted, strict=True))


def test_another_process_gets_places_and_opens_files_itself(source, folder):
    fill(folder, source)
    on_disk = folder.open(source.paths)
    features = on_disk["image3"]
    sent = pickle.dumps(on_disk)
    assert len(sent) < 2000
    assert same(pickle.loads(sent)["image3"], features)


def test_features_can_be_trained_on(source, folder):
    fill(folder, source)
    [batch] = batches(folder.open(source.paths), NAMES, batch_size=7, num_workers=0)
    norm = torch.nn.LayerNorm(3)
    norm(batch[0]).square().sum().backward()
    assert norm.weight.grad.any()


def test_a_full_folder_encodes_nothing(source, folder):
    fill(folder, source)
    before = files(folder)
    encode_none, seen = counting()
    fill(folder, source, encode_none)
    assert seen == [] and files(folder) == before


def test_a_stopped_process_loses_the_shard_that_it_worked_on(source, folder):
    batches_left = [encode] * 2

    def stopped(pixels):
        if not batches_left:
            raise KeyboardInterrupt
        return batches_left.pop()(pixels)

    with pytest.raises(KeyboardInterrupt):
        fill(folder, source, stopped)
    assert folder.missing(source.paths) == ["image4", "image5", "image6"]
    kept = {file: file.stat().st_mtime_ns for file in folder.path.glob("*.safetensors")}
    assert len(kept) == 2
    encode_rest, seen = counting()
    fill(folder, source, encode_rest)
    assert seen == [2, 1]
    assert all(file.stat().st_mtime_ns == when for file, when in kept.items())
    assert same(folder.open(source.paths)["image6"], [x[0] for x in encode(source["image6"][None])])


def test_what_a_killed_process_left_is_removed(source, folder, monkeypatch):
    def killed(tensors, file, **more):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        fill(folder, source)
    monkeypatch.undo()
    monkeypatch.setattr(feature_folder, "SHARD_BYTES", 3 * ROW)
    [left] = folder.path.glob("*.unfinished")
    elsewhere = left.with_name(left.name.split(".")[0] + ".elsewhere-1.unfinished")
    left.rename(elsewhere)  # by a process of another machine
    fill(folder, source)
    assert not folder.missing(source.paths)
    assert not any(name.endswith((".unfinished", ".lock")) for name in files(folder))


def test_more_images_are_added(source, folder):
    fill(folder, some(source, ["image1", "image4"]))
    encode_rest, seen = counting()
    fill(folder, source, encode_rest)
    assert sum(seen) == 5
    found = folder.load(source.paths)
    for name in NAMES:
        assert same(found[name], [level[0] for level in encode(source[name][None])])
    assert folder.load({"image4": source.paths["image4"]}).levels[0].shape == (1, 16, 3)


def test_two_settings_share_a_parent(source, folder):
    other = FeatureFolder.below(
        folder.path.parent, {**SETTINGS, "layers": "1 2"}, shapes=SHAPES, dtype=torch.float32
    )
    fill(folder, source)
    assert other.missing(source.paths) == sorted(NAMES)
    fill(other, source, lambda pixels: [-level for level in encode(pixels)])
    assert len(list(folder.path.parent.iterdir())) == 2
    mine, others = folder.load(source.paths), other.load(source.paths)
    for name in NAMES:
        assert same(mine[name], [-level for level in others[name]])


def refused(folder, source, *words):
    """Reading and completing it end with one sentence that holds the words."""
    for call in (lambda: folder.open(source.paths), lambda: fill(folder, source)):
        with pytest.raises(UserError) as caught:
            call()
        assert all(word in str(caught.value) for word in words), caught.value


def test_a_folder_of_other_settings_is_refused(source, folder):
    fill(folder, source)
    other = replace(folder, settings={**SETTINGS, "transform": "squarepad"})
    refused(other, source, "another transform (clip, not squarepad)", str(folder.path))
    manifest = folder.path / "manifest.json"
    manifest.write_text("{")
    refused(folder, source, "manifest.json", "damaged")
    for content in (json.dumps([1]), '{"a":' * 5000):
        manifest.write_text(content)
        refused(folder, source, "manifest.json", "damaged")
    manifest.unlink()
    refused(folder, source, "manifest.json", "missing")


def test_a_damaged_shard_is_refused(source, folder):
    fill(folder, source)
    shard = sorted(folder.path.glob("*.safetensors"))[1]
    whole = shard.read_bytes()
    for damage in (whole[:-1], whole[:100], b"", b"\xff" * len(whole), whole + b"\0"):
        shard.write_bytes(damage)
        refused(folder, source, shard.name, "damaged or cut short", "delete it")
    shard.unlink()
    fill(folder, source)
    assert not folder.missing(source.paths)


def test_a_shard_of_another_shape_or_type_is_refused(source, folder):
    fill(folder, source)
    refused(replace(folder, shapes=SHAPES[:1]), source, "another shape or type")
    refused(replace(folder, shapes=[(16, 3), (3, 3)]), source, "another shape or type")
    refused(replace(folder, dtype=torch.float16), source, "another shape or type")


def test_an_image_that_changed_is_refused(source, folder):
    fill(folder, source)
    path = source.paths["image5"]
    before = path.stat()
    content = path.read_bytes()
    os.utime(path, ns=(0, 0))  # a copy with another time
    assert not folder.missing(source.paths)
    path.write_bytes(content[:-1] + b"x")  # of the same length
    refused(folder, source, "image5.png", "is another than the one in the feature cache")
    path.write_bytes(content + b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    refused(folder, source, "image5.png")
    assert folder.missing(some(source, ["image1"]).paths) == []  # the others are as they were


def test_an_image_that_changes_while_it_is_read_is_refused(source, folder):
    def slow(pixels):
        source.paths["image1"].touch()
        return encode(pixels)

    with pytest.raises(UserError, match=r"image1\.png changed while"):
        fill(folder, source, slow)
    assert not list(folder.path.glob("*.safetensors"))


def test_half_precision_keeps_what_it_can(source, folder):
    half = replace(folder, dtype=torch.float16)
    fill(half, source, lambda pixels: [level.half() for level in encode(pixels)])
    found = half.load(source.paths)
    for name in NAMES:
        for level, expected in zip(found[name], encode(source[name][None]), strict=True):
            assert level.dtype == torch.float16
            torch.testing.assert_close(level.float(), expected[0], rtol=2**-11, atol=2**-25)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_what_is_not_finite_is_not_written(source, folder, dtype, value):
    def spoilt(pixels):
        levels = [level.to(dtype) for level in encode(pixels)]
        levels[1][-1, 1, 2] = value
        return levels

    with pytest.raises(UserError, match=r"not all finite.*--cache-dtype"):
        fill(replace(folder, dtype=dtype), source, spoilt)
    assert not list(folder.path.glob("*.safetensors"))


def test_a_full_disk_is_found_before_anything_is_written(source, folder, monkeypatch):
    usage = SimpleNamespace(free=7 * ROW - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    monkeypatch.setattr(feature_folder, "GIB", ROW)
    with pytest.raises(UserError) as caught:
        fill(folder, source)
    message = str(caught.value)
    assert re.search(r"7 images take 7\.00 GiB.* has 7\.00 GiB free", message)
    assert "--cache-features" in message and str(folder.path.parent) in message
    assert not folder.path.parent.exists()
    usage.free += 1
    fill(folder, source)


def _process(folder, source, log, barrier):
    """What each of two processes does; every image that it encodes leaves a line."""

    def slow(pixels):
        with log.open("a") as file:
            file.write("".join(f"{float(image.sum())!r}\n" for image in pixels))
        time.sleep(0.02)
        return encode(pixels)

    barrier.wait(60)
    fill(folder, source, slow)
    if folder.missing(source.paths):
        os._exit(3)


def test_two_processes_share_the_work(source, folder, tmp_path):
    context = multiprocessing.get_context("fork")
    log, barrier = tmp_path / "log", context.Barrier(2)
    arguments = (folder, source, log, barrier)
    workers = [context.Process(target=_process, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    encoded = sorted(map(float, log.read_text().split()))
    assert encoded == sorted(float(source[name].sum()) for name in NAMES)  # each one once
    expected = cache_in_memory(source, encode, batch_size=7, num_workers=0, progress=False)
    found = folder.load(source.paths)
    assert all(same(found[name], expected[name]) for name in NAMES)
    assert not any(name.endswith((".lock", ".unfinished")) for name in files(folder))
