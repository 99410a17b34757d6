"""Features in a folder stand in for the frozen tower, and the folder's name tells for which."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cache_features
import pandas as pd
import pytest
import torch
from conftest import SHORT

import blip_fine_tune_2
import blip_validate
from gatedcir.assemble.data import keeping, load_data, make_pixels, make_source
from gatedcir.assemble.evaluator import place
from gatedcir.assemble.model import build
from gatedcir.data.sources import FeatureSource, PixelSource
from gatedcir.device import CPU, Device
from gatedcir.errors import UserError
from gatedcir.features import cache as vision_cache
from gatedcir.features.cache import feature_folder, tower_hash
from gatedcir.features.shards import ShardSource
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse

HALF = {"fp16": 2**-11, "bf16": 2**-8}  # half of the distance to the next number, relative


def flags_of(home, *more):
    data = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    return [*data, *map(str, more)]


def config_of(home, *more) -> Config:
    return parse(Config, flags_of(home, *more), description="")


def trained(home, run, *more):
    """Two epochs' tables, without what is the machine's."""
    flags = flags_of(home, "--num-epochs", 2, "--learning-rate", 1e-3, "--output", run, *more)
    blip_fine_tune_2.main(flags)
    names = ("train_metrics.csv", "validation_metrics.csv")
    tables = [pd.read_csv(run / name) for name in names]
    return [
        t.drop(columns=["triplets_per_second", "peak_memory_gib"], errors="ignore") for t in tables
    ]


@pytest.fixture(scope="module")
def live(home, tmp_path_factory):
    """The tables of a training that runs the tower in every step."""
    return trained(home, tmp_path_factory.mktemp("live") / "run", "--cache-features", "none")


@pytest.fixture(scope="module")
def cache(home, tmp_path_factory) -> Path:
    """What `cache_features.py` writes for the small dataset."""
    folder = tmp_path_factory.mktemp("cache")
    cache_features.main(flags_of(home, "--cache-features", folder))
    return folder


@pytest.fixture
def no_tower(monkeypatch):
    """Fails where pixels reach the tower."""

    def encoder(*arguments):
        return lambda batch: pytest.fail("the tower ran")

    monkeypatch.setattr(vision_cache, "_encoder", encoder)


@pytest.mark.usefixtures("no_tower")
@pytest.mark.parametrize("device", ["disk", "ram"])
def test_training_from_a_folder_equals_training_from_pixels(home, cache, live, tmp_path, device):
    flags = ["--cache-features", cache, "--cache-device", device]
    for found, expected in zip(trained(home, tmp_path / "run", *flags), live, strict=True):
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_half_precision_changes_losses_by_its_rounding(home, live, tmp_path, name):
    flags = ["--cache-features", tmp_path / "cache", "--cache-dtype", name]
    losses, expected = (t[0]["loss"] for t in (trained(home, tmp_path / "run", *flags), live))
    difference = (losses / expected - 1).abs().max()
    assert 0 < difference < HALF[name]


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_features_are_stored_in_the_type_asked_for(home, tmp_path, name):
    config = config_of(home, "--cache-features", tmp_path, "--cache-dtype", name)
    model, _ = build(config)
    [splits] = load_data(config.data, "val")
    live = make_source(config_of(home), model, splits)
    found = make_source(config, model, splits)
    for image in splits[0].gallery:
        torch.testing.assert_close(
            found[image][0].float(), live[image][0], rtol=HALF[name], atol=2**-24
        )
        assert found[image][0].dtype.itemsize == 2


def test_sources_by_options(home, cache, monkeypatch, capsys):
    model, _ = build(config_of(home))

    def source(*more):
        config = config_of(home, *more)
        return make_source(config, model, *load_data(config.data, "val"))

    kept = ("--cache-features", cache)
    assert isinstance(source(*kept), FeatureSource)
    assert isinstance(source(*kept, "--cache-device", "disk"), ShardSource)
    assert isinstance(source(*kept, "--train-vision"), PixelSource)
    monkeypatch.setattr(vision_cache, "fits_in_memory", lambda *sizes: False)
    assert isinstance(source(*kept), ShardSource)
    assert isinstance(source(*kept, "--cache-device", "ram"), FeatureSource)
    assert isinstance(source("--cache-features", "memory"), FeatureSource)
    capsys.readouterr()
    assert isinstance(source(), PixelSource)
    assert "--cache-features FOLDER" in capsys.readouterr().out


def test_the_folder_is_that_of_all_that_features_depend_on(home, tmp_path):
    def name(*more, change=None):
        config = config_of(home, "--cache-features", tmp_path, *more)
        model, _ = build(config)
        place(model, torch.device("cpu"), config)
        if change is not None:
            change(model)
        pixels = make_pixels(config, model, *load_data(config.data, "val"))
        precision = torch.bfloat16 if "bf16" in more else None
        return feature_folder(
            keeping(config, replace(CPU, precision=precision)), model, pixels
        ).path.name

    def shift(module):
        return lambda model: model.get_submodule(module).weight.data.add_(0.5)

    vision = "backbone.vision_model"
    count = len(build(config_of(home))[0].backbone.vision_model.encoder.layers)
    two = ("--model.layer-fusion", "mean", "--model.visual-layers")
    scales = ("--model.scale-fusion", "mean", "--model.visual-scales")
    others = [
        name(),
        name(change=shift(f"{vision}.encoder.layers.0.mlp.fc1")),
        name(*two, -1, -2),
        name(*two, -2, -1),
        name(*scales, 0.5, 1.0),
        name("--loss-gate", 1, "--gate-target-layers", 0),
        name("--loss-gate", 1, "--gate-target-layers", 1),
        name("--transform", "squarepad"),
        name("--target-ratio", 1.5),
        name("--draft"),
        name("--image-size", 48),
        name("--mixed-precision", "bf16"),
        name("--cache-dtype", "fp16"),
    ]
    assert len(set(others)) == len(others)
    alike = [
        name("--loss-gate", 1),
        name("--loss-gate", 1, "--gate-target-layers", count - 1),
        name("--gate-target-layers", 0),
        name("--model.visual-layers", count - 1),
        name("--seed", 3, "--learning-rate", 1e-3, "--model.gated-fusion.strategy", "none"),
        name(change=shift(f"{vision}.post_layernorm")),
        name("--cache-dtype", "fp32", "--cache-device", "disk"),
    ]
    assert set(alike) == {name()}


def test_the_hash_of_the_tower_sees_its_sizes(home):
    model, _ = build(config_of(home))
    before = tower_hash(model)
    assert tower_hash(build(config_of(home))[0]) == before
    model.backbone.config.vision_config.num_attention_heads //= 2
    assert tower_hash(model) != before


def test_evaluation_reads_a_folder_and_never_fills_one(home, cache, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    trained(home, run, "--cache-features", cache, "--save-best")
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), "--num-workers", "0"]
    before = sorted(cache.rglob("*"))
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(vision_cache, "_encoder", lambda *arguments: pytest.fail)
        blip_validate.main([*flags, "--model-path", str(run)])
    report = capsys.readouterr().out
    moved = cache.rename(tmp_path / "moved")
    try:
        blip_validate.main([*flags, "--model-path", str(run)])
        assert not cache.exists()
    finally:
        moved.rename(cache)
    assert capsys.readouterr().out == report
    assert sorted(cache.rglob("*")) == before


def test_evaluation_leaves_out_a_folder_that_it_cannot_use(home, cache, tmp_path, capsys):
    """Of other images by the same names, or damaged: the images themselves are read."""
    run = tmp_path / "run"
    kept = tmp_path / "features"
    shutil.copytree(cache, kept)
    trained(home, run, "--cache-features", kept, "--save-best")
    data = tmp_path / "cirr_dataset"
    shutil.copytree(home / "cirr_dataset", data)
    flags = ["--num-workers", "0", "--model-path", str(run), "--dataset", "CIRR", "--data-path"]
    first, second = sorted((data / "dev").rglob("*.png"))[:2]
    first.write_bytes(second.read_bytes())
    capsys.readouterr()
    blip_validate.main([*flags, str(data)])
    note, _, report = capsys.readouterr().out.partition("\n")
    assert note.startswith(f"note: the image {first} is another than the one in the feature cache")
    assert note.endswith("the images themselves are read")
    shutil.rmtree(kept)
    blip_validate.main([*flags, str(data)])
    assert capsys.readouterr().out == report


def test_where_training_kept_features_does_not_bind_evaluation(home):
    config = config_of(home, "--cache-device", "gpu")
    pixels = SimpleNamespace(paths={"a": "a.png"})
    model = SimpleNamespace(feature_bytes=lambda dtype: 1)
    kept = keeping(config, CPU)
    assert vision_cache.cached_source(kept, model, pixels, may_write=False) is pixels


def test_options_that_make_no_sense_are_refused(home, tmp_path):
    for flags, words in (
        (["--cache-device", "disk"], "--cache-device disk needs a folder"),
        (["--cache-device", "disk", "--cache-features", "none"], "--cache-features none"),
        (["--cache-device", "gpu"], "needs a GPU"),
    ):
        with pytest.raises(UserError, match=words):
            blip_fine_tune_2.main(flags_of(home, *flags, "--output", tmp_path / "run"))
    for flags, words in (
        ([], "--cache-features FOLDER"),
        (["--cache-features", tmp_path / "cache", "--train-vision"], "--train-vision"),
    ):
        with pytest.raises(UserError, match=words):
            cache_features.main(flags_of(home, *flags))
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_without_room_is_refused(home, monkeypatch):
    config = config_of(home, "--cache-device", "gpu")
    kept = keeping(config, Device(torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * 2**20, 0))
    with pytest.raises(UserError, match="free on the GPU"):
        vision_cache._device(kept, 2**20 + 1)
    assert vision_cache._device(kept, 2**20).type == "cuda"
