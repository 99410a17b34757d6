"""Images from files and features from memory."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from gatedcir.data.batches import TripletDataset
from gatedcir.data.sources import PixelSource, batches
from gatedcir.data.transforms import make_transform
from gatedcir.data.triplets import Triplet
from gatedcir.errors import UserError
from gatedcir.features.encode import cache_in_memory

SIZE = 4
NAMES = [f"image{i}" for i in (3, 0, 6, 1, 5, 2, 4)]  # not in the order of the cache


@pytest.fixture
def source(tmp_path):
    generator = np.random.default_rng(0)
    paths = {}
    for name in NAMES:
        paths[name] = tmp_path / f"{name}.png"
        pixels = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(paths[name])
    return PixelSource(paths, make_transform("clip", size=SIZE))


def encode(pixels):
    """Two layers of different shapes, without sums, so that batches change no bit."""
    tokens = pixels.flatten(2).transpose(1, 2)  # [B, L, 3]
    return [tokens * 2, tokens[:, :2].square().to(torch.bfloat16)]


def cached(source, encode=encode, **settings):
    settings = {"batch_size": 3, "num_workers": 0, "progress": False, **settings}
    return cache_in_memory(source, encode, **settings)


def triplets():
    captions = [("is red", f"has {i} stripes") for i in range(12)]
    targets = ["image1", "image2", "image1", "image0", "image2", "image1"] * 2
    return [
        Triplet(str(i), "image3", (target,), both)
        for i, (target, both) in enumerate(zip(targets, captions, strict=True))
    ]


def texts(*, seed, epoch, order):
    dataset = TripletDataset(triplets(), dict.fromkeys(NAMES, torch.zeros(1)), seed=seed)
    dataset.epoch = epoch
    found = {}
    for index in order:
        random.random()  # the global generator must not matter
        [found[index]] = dataset[[index]].texts
    return [found[index] for index in range(len(dataset))]


def test_cache_equals_the_live_encoding(source):
    found = cached(source)
    for name in NAMES:
        live = [level[0] for level in encode(source[name][None])]
        for level, expected in zip(found[name], live, strict=True):
            assert level.dtype == expected.dtype
            assert torch.equal(level, expected)


def test_cache_encodes_each_image_once(source):
    sizes, seen = [], []

    def counting(pixels):
        assert torch.is_inference_mode_enabled()
        sizes.append(len(pixels))
        seen.extend(float(image.sum()) for image in pixels)
        return encode(pixels)

    cached(source, counting)
    assert sizes == [3, 3, 1]
    assert sorted(seen) == pytest.approx(sorted(float(source[name].sum()) for name in NAMES))


def test_cache_is_the_same_with_worker_processes(source):
    alone, helped = cached(source), cached(source, num_workers=1)
    assert alone.rows == helped.rows
    for first, second in zip(alone.levels, helped.levels, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_keep_the_order(source, batch_size):
    from_files = list(batches(source, NAMES, batch_size=batch_size, num_workers=0))
    assert [len(batch) for batch in from_files][:-1] == [batch_size] * (len(from_files) - 1)
    expected = torch.stack([source[name] for name in NAMES])
    assert torch.equal(torch.cat(from_files), expected)
    memory = cached(source)
    from_memory = list(batches(memory, NAMES, batch_size=batch_size, num_workers=5))
    assert len(from_memory) == len(from_files)
    for place, level in enumerate(encode(expected)):
        assert torch.equal(torch.cat([batch[place] for batch in from_memory]), level)


def test_batches_may_repeat_an_image(source):
    names = ["image2", "image0", "image2"]
    (batch,) = batches(source, names, batch_size=3, num_workers=0)
    assert torch.equal(batch[0], batch[2])
    assert not torch.equal(batch[0], batch[1])


def test_broken_image_is_named(source):
    path = source.paths["image5"]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"image5\.png"):
        cached(source)
    with pytest.raises(UserError, match=r"image5\.png"):
        source["image5"]


def test_texts_depend_on_seed_epoch_and_item_alone():
    forth, back = range(12), range(11, -1, -1)
    reference = texts(seed=1, epoch=2, order=forth)
    assert texts(seed=1, epoch=2, order=back) == reference
    assert texts(seed=1, epoch=2, order=[*forth, *back]) == reference
    assert texts(seed=2, epoch=2, order=forth) != reference
    assert texts(seed=1, epoch=3, order=forth) != reference
    # Items draw apart: with one draw for all, every text would have the same form.
    assert len({text.startswith("Is red") for text in reference}) == 2


def test_target_numbers_are_equal_for_equal_targets(source):
    dataset = TripletDataset(triplets(), source, seed=0)
    numbers = [*dataset[range(5)].target_ids, *dataset[range(5, 12)].target_ids]
    assert numbers == [0, 1, 0, 2, 1, 0] * 2


def test_every_epoch_takes_the_next_of_several_targets(source):
    several = [Triplet("0", "image3", ("image1", "image0", "image2"), ("is red",))] * 30
    dataset = TripletDataset(several, source, seed=0)
    found = []
    for dataset.epoch in range(4):
        batch = dataset[range(30)]
        shown = batch.images[batch.targets]
        for number, name in enumerate(("image1", "image0", "image2")):
            chosen = batch.target_ids == number
            assert torch.equal(shown[chosen], source[name].expand_as(shown[chosen]))
        found.append(batch.target_ids)
    assert all(torch.equal((a + 1) % 3, b) for a, b in pairwise(found))
    assert set(found[0].tolist()) == {0, 1, 2}  # triplets do not start alike
    other = TripletDataset(several, source, seed=1)
    assert not torch.equal(other[range(30)].target_ids, found[0])


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_batch_holds_each_image_once(source, in_memory):
    images = cached(source) if in_memory else source
    dataset = TripletDataset(triplets(), images, seed=0)
    assert dataset.reads_files is not in_memory
    found = dataset[[0, 3, 2]]  # "image3" three times, "image1" twice, "image0"
    expected = torch.stack([source[name] for name in ("image3", "image1", "image0")])
    if in_memory:
        for level, whole in zip(found.images, encode(expected), strict=True):
            assert torch.equal(level, whole)
    else:
        assert torch.equal(found.images, expected)
    assert found.references.tolist() == [0, 0, 0]
    assert found.targets.tolist() == [1, 2, 1]
    assert found.texts == [text for index in (0, 3, 2) for text in dataset[[index]].texts]
    assert found.target_ids.tolist() == [0, 2, 0]
    assert {x.dtype for x in (found.references, found.targets, found.target_ids)} == {torch.int64}


def test_a_file_is_read_once_a_batch(source, monkeypatch):
    read = []
    monkeypatch.setattr(PixelSource, "__getitem__", lambda _, name: read.append(name) or 0.0)
    TripletDataset(triplets(), source, seed=0)[list(range(12))]
    assert sorted(read) == ["image0", "image1", "image2", "image3"]


def test_cached_features_can_be_trained_on(source):
    """Tensors made in inference mode cannot be saved for backward; a batch is a copy."""
    dataset = TripletDataset(triplets(), cached(source), seed=0)
    norm = torch.nn.LayerNorm(3)
    norm(dataset[[0]].images[0]).square().sum().backward()
    assert norm.weight.grad.any()
