"""A model as ONNX graphs: the same features, the same searches, and what is refused."""

import importlib.util
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import bad

from gatedcir.commands import export
from gatedcir.errors import UserError
from gatedcir.gallery.gallery import Gallery
from gatedcir.gallery.onnx_folder import open_onnx
from gatedcir.gallery.retriever import Retriever
from gatedcir.models import onnx_graphs
from gatedcir.models.onnx_graphs import CLOSE
from gatedcir.pretrained import TrainedRetriever

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)
TEXTS = ["", "red", "make it two dogs on the green grass, and larger than the other"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder `small` with one block and two layers of the tiny model, and `graphs` of it."""
    place = tmp_path_factory.mktemp("onnx")
    whole = TrainedRetriever.from_pretrained("tiny")
    backbone = whole.model.backbone
    del backbone.vision_model.encoder.layers[1:]
    del backbone.qformer.encoder.layer[2:]
    backbone.config.vision_config.num_hidden_layers = 1
    backbone.config.qformer_config.num_hidden_layers = 2
    optim = replace(whole.config.optim, mixed_precision="fp32")
    whole = replace(whole, config=replace(whole.config, optim=optim))
    whole.save_pretrained(place / "small")
    words = ["--model-path", place / "small", "--to", "onnx", "--output", place / "graphs"]
    export.main([str(word) for word in words])
    return place


@pytest.fixture(scope="module")
def both(folder):
    """The model of torch, and that of the graphs."""
    return tuple(Retriever.from_pretrained(folder / name) for name in ("small", "graphs"))


def test_features_equal_those_of_torch(both, photos):
    files = sorted(photos.iterdir())[:3]
    torch_model, graphs = both
    assert graphs.identity == torch_model.identity and graphs.form() == torch_model.form()
    for image, text in (
        *((files, TEXTS), (files[0], TEXTS), (files[0], TEXTS[2])),
        *((None, TEXTS), (None, TEXTS[0]), (files, [("red", 1.0), ("green", -0.5)])),
    ):
        found, expected = (one.encode_query(image, text) for one in (graphs, torch_model))
        np.testing.assert_allclose(found, expected, atol=CLOSE)
    for images in (files, files[0]):
        found, expected = (one.encode_image(images) for one in (graphs, torch_model))
        np.testing.assert_allclose(found, expected, atol=CLOSE)


def test_an_index_serves_both(both, photos, folder):
    torch_model, graphs = both
    graphs.index(photos, to=folder / "index").close()
    answers = []
    for retriever in (None, torch_model):  # None: the graphs, which the index names
        gallery = Gallery.open(folder / "index", retriever)
        hits = gallery.search(sorted(photos.iterdir())[0], "make it red", k=5)
        assert hits[0].explain().token is not None
        answers.append([(hit.path, round(hit.score, 3)) for hit in hits])
        gallery.close()
    assert answers[0] == answers[1]


def test_graphs_of_8_bits_are_smaller_and_close(both, photos, folder):
    shutil.copytree(folder / "graphs", folder / "int8")
    for file in (folder / "int8").glob("*.onnx"):
        onnx_graphs._quantise(file, large=False)
    assert sorted(file.name for file in (folder / "int8").iterdir()) == [
        *("image.onnx", "onnx.json", "query.onnx", "text.onnx", "tokenizer.json")
    ]
    small = Retriever.from_pretrained(folder / "int8", runtime="onnx")
    for name in ("image", "query", "text"):
        sizes = [(folder / kind / f"{name}.onnx").stat().st_size for kind in ("int8", "graphs")]
        assert sizes[0] < 0.6 * sizes[1]
    files = sorted(photos.iterdir())[:3]
    found, expected = (one.encode_query(files, TEXTS) for one in (small, both[0]))
    cosine = (found * expected).sum(1)
    assert (cosine > 0.99).all() and not np.array_equal(found, expected)


def test_a_model_that_differs_is_refused(tmp_path, monkeypatch):
    class Other(torch.nn.Linear):
        """Its graph is written before its weights change."""

        def forward(self, pixels):
            return super().forward(pixels.flatten(1))

    module, example = Other(12, 2), (torch.ones(2, 3, 2, 2),)
    shapes = [{0: torch.export.Dim("batch")}]
    file = tmp_path / "image.onnx"
    assert onnx_graphs._write(file, module, example, shapes, int8=False) < CLOSE
    module.weight.data += 1
    with pytest.raises(UserError, match=r"image\.onnx differs from PyTorch by 1e\+01"):
        onnx_graphs._difference(file, module, example, int8=False)
    module.forward = lambda pixels: pixels.tolist()
    with pytest.raises(UserError, match=r"has no form in ONNX .*; search with PyTorch"):
        onnx_graphs._write(file, module, example, shapes, int8=False)


def test_what_is_refused(folder, tmp_path, monkeypatch):
    words = ["--model-path", folder / "small", "--output", tmp_path / "new", "--format"]
    bad(export, [*words, "hub", "--int8"], "--int8 is for --format onnx")
    bad(export, [*words, "onnx", "--drop-fusion"], "--format onnx keeps the fusion")
    bad(export, [*words, "onnx", "--push", "a/b"], "--push uploads --format hub only")
    with pytest.raises(UserError, match="is no model for the runtime 'onnx'; give torch, or write"):
        Retriever.from_pretrained(folder / "small", runtime="onnx")
    with pytest.raises(UserError, match="is no model for the runtime 'torch'; give onnx"):
        Retriever.from_pretrained(folder / "graphs", runtime="torch")
    find = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda n: None if "onnx" in n else find(n))
        bad(export, [*words, "onnx"], "needs onnx and onnxruntime and onnxscript", "gatedcir[onnx]")
    assert not (tmp_path / "new").exists()


def test_a_damaged_folder_is_named(folder, tmp_path):
    place = shutil.copytree(folder / "graphs", tmp_path / "copy")
    graph, note = place / "query.onnx", place / "onnx.json"
    graph.write_bytes(graph.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"the graphs of .*copy cannot be opened"):
        open_onnx(place)
    note.write_text(json.dumps(json.loads(note.read_text()) | {"format": 2}))
    with pytest.raises(UserError, match="has format 2, and this version reads format 1"):
        open_onnx(place)
    note.write_text("{}")
    with pytest.raises(UserError, match="is an incomplete copy of a model in ONNX"):
        open_onnx(place)
