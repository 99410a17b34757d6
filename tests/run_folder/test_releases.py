"""What earlier releases wrote opens in this one, and gives the same features and results."""

import json
import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import blip_fine_tune_2
import blip_validate
from gatedcir.data.sources import PixelSource
from gatedcir.data.transforms import make_transform
from gatedcir.features.folder import FeatureFolder
from gatedcir.gallery.gallery import Gallery
from gatedcir.gallery.retriever import Retriever
from gatedcir.models import qformer
from gatedcir.pretrained import TrainedRetriever
from gatedcir.search import large
from gatedcir.synthetic.layouts import write_cirr

FIXTURES = Path(__file__).parents[1] / "fixtures"
TEXTS = ["make it red", "two dogs on grass"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The suite's small scenes of that time."""
    folder = tmp_path_factory.mktemp("scenes")
    list(write_cirr(folder, {"train": 24, "val": 6, "test": 20}, seed=0))
    return folder


@pytest.fixture(params=["release_0_1", "release_0_2"])
def release(request, tmp_path, monkeypatch):
    """A run that was stopped after one of two epochs, and what it started from, as they were left.

    A release trained it on the suite's own small scenes, with gated fusion.
    """
    folder = Path(shutil.copytree(FIXTURES / request.param, tmp_path / "release"))
    monkeypatch.chdir(folder)  # its options name the weights and the data from here
    return folder


@pytest.mark.parametrize("name", ["run", "exported"])
def test_features_are_those_of_the_release(release, name):
    expected = load_file(release / "expected.safetensors")
    found = TrainedRetriever.from_pretrained(release / name)
    with torch.inference_mode():
        query, aux = found.model.encode_query(expected["images"], found.tokenizer(TEXTS))
        targets = found.model.encode_target(expected["images"])
    for value, before in ((query, "query"), (targets, "targets"), (aux["gate"], "gate")):
        torch.testing.assert_close(value, expected[before], rtol=1e-5, atol=1e-6)
    assert found.epoch == 1 and found.config.model.gated_fusion.strategy == "gated"


def test_metrics_are_those_of_the_release(release, scenes):
    data = ["--dataset", "CIRR", "--data-path", str(scenes), "--num-workers", "0"]
    blip_validate.main([*data, "--model-path", "run", "--json", "now.json"])
    metrics = (json.loads(Path(name).read_text())["metrics"] for name in ("now.json", "val.json"))
    assert next(metrics) == pytest.approx(next(metrics))


def test_a_run_of_the_release_goes_on(release, scenes, monkeypatch):
    # Releases drew the numbers of dropout by torch alone. A CPU takes fewer of them since.
    monkeypatch.setattr(qformer, "dropout", lambda x, p, *, training: F.dropout(x, p, training))
    before = pd.read_csv("run/train_metrics.csv")
    blip_fine_tune_2.main(["--resume", "run", "--data-path", str(scenes)])
    pd.testing.assert_frame_equal(pd.read_csv("run/train_metrics.csv")[:1][before.columns], before)
    after = pd.read_csv("run/validation_metrics.csv")
    expected = pd.read_csv("after_resume.csv")
    pd.testing.assert_frame_equal(after[expected.columns], expected)


def test_features_that_release_0_2_kept_are_not_encoded_again(tmp_path):
    folder = shutil.copytree(FIXTURES / "release_0_2", tmp_path / "release")
    images = {name: folder / "images" / f"{name}.png" for name in "abc"}
    settings = {"vision tower": "abc", "transform": "clip"}
    kept = FeatureFolder.below(folder / "features", settings, shapes=[(4, 3)], dtype=torch.float32)
    assert kept.missing(images) == []
    source = PixelSource(images, make_transform("clip", size=2))
    for name, pixels in ((name, source[name]) for name in images):
        assert torch.equal(kept.load(images)[name][0], pixels.flatten(1).T)


@pytest.mark.parametrize("kind", ["exact", "large", "embedded"])
def test_an_index_of_the_first_format_is_searched(tmp_path, monkeypatch, kind):
    """Release 0.2 had none, and these are of its successors."""
    name = "index_1" if kind == "exact" else f"index_1_{kind}"
    if kind == "embedded":
        pytest.importorskip("qdrant_edge")
        with tarfile.open(FIXTURES / f"{name}.tar.xz") as packed:  # of files that are mostly empty
            packed.extractall(tmp_path, filter="data")
    else:
        shutil.copytree(FIXTURES / name, tmp_path / name)
    for constant in ("_CANDIDATES", "_FOR_EACH", "_SHARE"):
        monkeypatch.setattr(large, constant, 1)  # else three images are searched without lists
    gallery = Gallery.open(tmp_path / name, Retriever.from_pretrained("tiny"))
    assert (kind == "large") == ("24 features in 2 lists" in str(gallery.info()))
    found = {hit.path.name: hit.score for hit in gallery.search(text="make it red", k=3)}
    expected = {"c.png": 0.19067, "a.png": 0.11326, "b.png": 0.03704}
    assert found == pytest.approx(expected, abs=1e-3) and list(found) == list(expected)
    [dear] = gallery.search(text="red", k=3, where={"price": (2, None)})
    assert dear.path.name == "b.png"
    gallery.close()
