"""Which folder is a dataset, which part of it is read, and what the reports say of it."""

import json
import shutil
from pathlib import Path

import pytest

from gatedcir import processes
from gatedcir.benchmarks import load
from gatedcir.benchmarks.base import Choice
from gatedcir.benchmarks.load import load_splits
from gatedcir.errors import UserError


@pytest.fixture(scope="module")
def folders(home) -> dict[str, Path]:
    return {"CIRR": home / "cirr_dataset", "FashionIQ": home / "fashionIQ_dataset"}


def refused(dataset, root, *words):
    with pytest.raises(UserError) as raised:
        load_splits(dataset, root, ["val"])
    assert all(word in str(raised.value) for word in words), raised.value


@pytest.mark.parametrize("dataset", ["CIRR", "FashionIQ"])
def test_what_is_no_dataset_is_named(folders, dataset, tmp_path):
    file = tmp_path / "triplets.csv"
    file.touch()
    refused(dataset, file, "is a file", dataset, "github.com", "gatedcir synthetic")
    refused(dataset, tmp_path / "x", "there is no folder", "--data-path", "gatedcir synthetic")
    other = {"CIRR": "FashionIQ", "FashionIQ": "CIRR"}[dataset]
    refused(dataset, folders[other], f"holds {other} and not {dataset}", f"--dataset {other}")
    inner = tmp_path / "above" / "data"
    inner.parent.mkdir()
    inner.symlink_to(folders[dataset])
    refused(dataset, inner.parent, f"pass --data-path {inner}")
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.JPG", "b.png", "c.txt"):
        (photos / name).touch()
    refused(dataset, photos, "holds 2 images and no annotations", "gatedcir synthetic")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(dataset, empty, "does not exist; the expected layout is ROOT/")


def test_categories_are_chosen_and_said(folders):
    root = folders["FashionIQ"]
    every = load_splits("FashionIQ", root, ["train", "val"])
    assert [[part.category for part in parts] for parts in every] == [
        ["dress", "shirt", "toptee"]
    ] * 2
    two = Choice(categories=("toptee", "dress"))
    chosen = load_splits("FashionIQ", root, ["train", "val"], choice=two)
    for some, parts in zip(chosen, every, strict=True):
        assert [part.category for part in some] == ["dress", "toptee"]
        assert [part.triplets for part in some] == [parts[0].triplets, parts[2].triplets]
        for part, whole in zip(some, (parts[0], parts[2]), strict=True):
            assert "only" not in whole.protocol
            assert part.protocol == f"{whole.protocol}, dress and toptee only"
    with pytest.raises(UserError, match="names none of dress"):
        load_splits("FashionIQ", root, ["val"], choice=Choice(categories=()))


@pytest.mark.parametrize("dataset", ["CIRR", "FashionIQ"])
def test_all_splits_are_searched_at_evaluation_alone(folders, dataset):
    names = ["train", "val"]
    train, val = load_splits(dataset, folders[dataset], names)
    same, wide = load_splits(dataset, folders[dataset], names, choice=Choice(gallery="all"))
    assert same == train
    for part, wider in zip(val, wide, strict=True):
        assert wider.triplets == part.triplets
        assert wider.gallery[: len(part.gallery)] == part.gallery
        assert len(wider.gallery) > 2 * len(part.gallery)
        assert wider.paths.keys() == set(wider.gallery)
        assert f"gallery of {len(wider.gallery)} images (all splits)" in wider.protocol


def test_unreadable_images_are_left_out_once_and_noted(folders, tmp_path, capsys, monkeypatch):
    root, kept = tmp_path / "data", tmp_path / "features"
    shutil.copytree(folders["CIRR"], root)
    [[whole]] = load_splits("CIRR", root, ["val"])
    bad = [whole.paths[name] for name in whole.gallery[-3:]]
    bad[0].unlink()
    bad[1].write_bytes(b"")
    bad[2].write_bytes(bad[2].read_bytes()[:100])
    for _ in range(2):
        [[part]] = load_splits("CIRR", root, ["val"], skip_unreadable=True, folder=kept)
        assert part.gallery == whole.gallery[:-3]
        reasons = "1 cut short or damaged, 1 empty, 1 missing"
        assert f", 3 unreadable images ({reasons}) and {part.skipped} " in part.protocol
        assert f"{len(part.triplets) + part.skipped} queries, 3" in part.protocol
        said = capsys.readouterr().out
        assert f"3 of {len(whole.paths)} images are left out" in said
        assert str(kept / "unreadable_images.csv") in said
    assert {file.name for file in kept.iterdir()} == {"unreadable_images.csv", "read_images.json"}


def test_other_processes_are_told_what_the_first_found(monkeypatch, tmp_path):
    there = {tmp_path / "a.png": "empty"}

    class OtherProcess:
        is_available = is_initialized = staticmethod(lambda: True)
        get_rank = staticmethod(lambda: 1)
        get_world_size = staticmethod(lambda: 2)

        @staticmethod
        def broadcast_object_list(found):
            found[:] = [there]

    for module in (load, processes):
        monkeypatch.setattr(module, "dist", OtherProcess)
    assert load._find_unreadable([*there], num_workers=0, folder=None, tell=True) == there


def test_queries_without_text_are_counted(folders, tmp_path):
    root = tmp_path / "cirr"
    shutil.copytree(folders["CIRR"], root)
    file = root / "cirr" / "captions" / "cap.rc2.val.json"
    entries = json.loads(file.read_text())
    for entry, caption in zip(entries, ("", " \n"), strict=False):
        entry["caption"] = caption
    file.write_text(json.dumps(entries))
    [[split]] = load_splits("CIRR", root, ["val"])
    assert split.protocol.endswith(", 2 queries have no text")


def test_missing_and_broken_files_are_told_at_once(folders, tmp_path):
    root = tmp_path / "cirr"
    shutil.copytree(folders["CIRR"], root)
    first, second, third, *_ = sorted((root / "dev").rglob("*.png"))
    first.unlink()
    second.write_bytes(b"")
    third.write_text("<html>")
    refused("CIRR", root, "1 of ", "and 2 cannot be read", f"{second} (empty), {third} (web page)")
