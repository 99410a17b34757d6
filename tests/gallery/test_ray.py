"""Images encoded by workers of Ray: the same index as by this process, also after a kill."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from conftest import bad

from gatedcir.commands import index
from gatedcir.gallery import ray_engine
from gatedcir.gallery.gallery import Gallery
from gatedcir.gallery.place import IndexFolder, read_manifest


def content(path):
    """Digest -> features, and path -> digest."""
    folder = IndexFolder.open(path, read_manifest(path))
    entries = folder.stored.entries()
    features = dict(zip(entries.values(), folder.stored.features(list(entries)), strict=True))
    files = {str(p): entries[known.number] for p, known in folder.catalogue.files().items()}
    folder.close()
    return features, files


class KilledOnce(ray_engine.Encoder):
    """A worker that is killed in its first batch."""

    def __call__(self, batch):
        try:
            os.close(os.open(os.environ["KILLED_ONCE"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return super().__call__(batch)
        os.kill(os.getpid(), 9)


def test_two_workers_give_the_same_index_though_one_is_killed(photos, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "bad.png").write_bytes(b"bad")
    words = ["--model-path", "tiny", "--images", str(tmp_path / "photos"), "--skip-broken"]
    index.main([*words, "--output", str(tmp_path / "one")])
    monkeypatch.setenv("KILLED_ONCE", str(tmp_path / "killed"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, sys.path)))
    monkeypatch.setattr(ray_engine, "Encoder", KilledOnce)
    monkeypatch.setattr(ray_engine, "AT_ONCE", 4)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        index.main([*words, "--output", str(tmp_path / "two"), "--engine", "ray"])
    finally:
        ray.shutdown()
    assert (tmp_path / "killed").exists()
    (one, files), (two, other_files) = content(tmp_path / "one"), content(tmp_path / "two")
    assert files == other_files and one.keys() == two.keys() and len(one) > 4
    for digest, features in one.items():
        np.testing.assert_allclose(features, two[digest], atol=2e-3)
    hits = [Gallery.open(tmp_path / name).search(text="red", k=5) for name in ("one", "two")]
    assert [hit.path for hit in hits[0]] == [hit.path for hit in hits[1]]


def test_what_is_wrong_is_said(photos, tmp_path, monkeypatch):
    words = ["--model-path", "tiny", "--images", photos, "--output", tmp_path / "new"]
    bad(index, [*words, "--ray-workers", "2"], "--ray-workers is for --engine ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    bad(index, [*words, "--engine", "ray"], "Ray is needed and not installed", "'gatedcir[ray]'")


def test_a_list_names_the_images(photos, tmp_path, capsys):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    first, second, *_ = sorted(photos.iterdir())
    (tmp_path / "here.png").symlink_to(first)
    table = pyarrow.table({"path": ["here.png", str(second)], "price": [1, 2]})
    parquet.write_table(table, tmp_path / "list.parquet")
    words = ["--model-path", "tiny", "--images", tmp_path / "list.parquet"]
    words = [*map(str, words), "--output", str(tmp_path / "new")]
    index.main(words)
    index.main([*words, "--watch-deleted"])
    assert "2 unchanged; 0 images encoded" in capsys.readouterr().out
    capsys.readouterr()
    index.main(["--index", str(tmp_path / "new"), "--info", "--json"])
    assert json.loads(capsys.readouterr().out)["files"] == 2
    parquet.write_table(table.select(["price"]), tmp_path / "list.parquet")
    bad(index, words, "list.parquet cannot be read", "a column path of texts")
