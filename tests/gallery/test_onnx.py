"""A model as ONNX graphs: the same features, the same searches, and what is refused."""

import importlib.util
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import bad
from cross_encoders import brightest, encoder, install
from torch import nn

from gatedcir.assemble.data import make_transform
from gatedcir.assemble.model import open_trained
from gatedcir.commands import export
from gatedcir.device import CPU
from gatedcir.errors import UserError
from gatedcir.gallery import onnx_folder
from gatedcir.gallery.gallery import Gallery
from gatedcir.gallery.identity import identity_of
from gatedcir.gallery.onnx_folder import open_onnx
from gatedcir.gallery.opening import Opened
from gatedcir.gallery.retriever import Retriever
from gatedcir.models import onnx_graphs
from gatedcir.models.onnx_graphs import CLOSE, write_graphs

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)
TEXTS = ["", "red", "make it two dogs on the green grass, and larger than the other"]


class Small(nn.Module):
    """What the graphs ask of a model, in few operations: each costs a tenth of a second."""

    num_query_tokens, embedding_width, matcher, towers = 2, 64, None, ()
    backbone = SimpleNamespace(image_size=8)

    def __init__(self):
        super().__init__()
        self.of_pixels, self.of_words = nn.Linear(3 * 8 * 8, 2 * 64), nn.Embedding(412, 64)
        self.prompt = nn.Parameter(torch.ones(64))

    def levels(self, pixels):
        return pixels

    def encode_target(self, pixels):
        return F.normalize(self.of_pixels(pixels.flatten(1)).unflatten(1, (2, 64)), dim=-1)

    def encode_query(self, pixels, text, *, keep=None):
        words = self.encode_text(text, prompted=False)
        return F.normalize(self.encode_target(pixels).mean(1) + words, dim=-1), {}

    def encode_text(self, text, *, prompted=True):
        words = (self.of_words(text.input_ids) * text.attention_mask[..., None]).sum(1)
        return F.normalize(words + self.prompt if prompted else words, dim=-1)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A small model, and its graphs in a folder."""
    folder = tmp_path_factory.mktemp("onnx") / "graphs"
    torch.manual_seed(0)
    _, tokenizer, config = open_trained("tiny")
    parts = Small().eval(), tokenizer, config
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_folder, "load", lambda name: SimpleNamespace(own={"prompt_tokens": 0}))
        patch.setattr(onnx_folder, "trained_model", lambda found, name: parts)
        export.main(["--model-path", "small", "--to", "onnx", "--output", str(folder)])
    transform = make_transform(config, parts[0])
    identity = identity_of(parts[0], config, transform)
    model = Retriever("small", Opened(parts[0], tokenizer, transform, CPU, identity, True))
    return model, Retriever.from_pretrained(folder)


@pytest.fixture(scope="module")
def folder(both):
    return Path(both[1].name)


def test_a_graph_of_the_model_itself_equals_it(tmp_path):
    model, *_ = open_trained("tiny")
    del model.backbone.vision_model.encoder.layers[1:]
    del model.backbone.qformer.encoder.layer[1:]
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        write = onnx_graphs._write
        patch.setattr(
            onnx_graphs,
            "_write",
            lambda file, *graph, **settings: (
                seen.append(write(file, *graph, **settings)) if file.stem == "query" else None
            ),
        )
        write_graphs(model, tmp_path, max_length=32, prompted=True, int8=False)
    assert 0 < seen[0] < 1e-5


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
    graphs.index(photos, to=folder.parent / "index").close()
    answers = []
    for retriever in (None, torch_model):  # None: the graphs, which the index names
        gallery = Gallery.open(folder.parent / "index", retriever)
        hits = gallery.search(sorted(photos.iterdir())[0], "make it red", k=5)
        answers.append([(hit.path, round(hit.score, 3)) for hit in hits])
        gallery.close()
    assert answers[0] == answers[1]


def test_a_cross_encoder_judges_what_graphs_find(both, photos, folder, monkeypatch):
    both[1].index(photos, to=folder.parent / "judged").close()
    install(monkeypatch, lambda *_, **__: encoder(brightest))
    graphs = Retriever.from_pretrained(folder, runtime="onnx", reranker="any")
    gallery = Gallery.open(folder.parent / "judged", graphs)
    query = sorted(photos.iterdir())[0], "make it red"
    plain, hits = (gallery.search(*query, k=6, rerank=most) for most in (0, 4))
    gallery.close()
    assert {hit.path for hit in hits[:4]} == {hit.path for hit in plain[:4]}
    assert [hit.path for hit in hits[4:]] == [hit.path for hit in plain[4:]]
    scores = [brightest([("", {"image": graphs.transform.open(hit.path)})])[0] for hit in hits[:4]]
    assert [hit.score for hit in hits[:4]] == pytest.approx(scores)
    assert scores == sorted(scores, reverse=True)


def test_graphs_of_8_bits_are_smaller_and_close(both, photos, folder):
    shutil.copytree(folder, folder.parent / "int8")
    for file in (folder.parent / "int8").glob("*.onnx"):
        onnx_graphs._quantise(file, large=False)
    note = folder.parent / "int8" / "onnx.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"crc32": {}}))
    assert sorted(file.name for file in (folder.parent / "int8").iterdir()) == [
        *("image.onnx", "onnx.json", "query.onnx", "text.onnx", "tokenizer.json")
    ]
    small = Retriever.from_pretrained(folder.parent / "int8", runtime="onnx")
    sizes = [(place / "image.onnx").stat().st_size for place in (folder.parent / "int8", folder)]
    assert sizes[0] < 0.4 * sizes[1]
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
    words = ["--model-path", "tiny", "--output", tmp_path / "new", "--format"]
    bad(export, [*words, "hub", "--int8"], "--int8 is for --format onnx")
    bad(export, [*words, "onnx", "--drop-fusion"], "--format onnx keeps the fusion")
    bad(export, [*words, "onnx", "--push", "a/b"], "--push uploads --format hub only")
    with pytest.raises(UserError, match="is no model for the runtime 'onnx'; give torch, or write"):
        Retriever.from_pretrained("tiny", runtime="onnx")
    with pytest.raises(UserError, match="is no model for the runtime 'torch'; give onnx"):
        Retriever.from_pretrained(folder, runtime="torch")
    find = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda n: None if "onnx" in n else find(n))
        bad(export, [*words, "onnx"], "needs onnx and onnxruntime and onnxscript", "gatedcir[onnx]")
    assert not (tmp_path / "new").exists()


def test_a_damaged_folder_is_named(folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "copy")
    graph, note = place / "query.onnx", place / "onnx.json"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 4
    graph.write_bytes(content)
    with pytest.raises(UserError, match=r"incomplete copy .*\(query.onnx has another checksum\)"):
        open_onnx(place)
    noted = json.loads(note.read_text())
    assert noted.pop("crc32").keys() == {file.name for file in place.iterdir()} - {note.name}
    note.write_text(json.dumps(noted))  # as an earlier version wrote it
    graph.write_bytes(content[:-9])
    with pytest.raises(UserError, match=r"the graphs of .*copy cannot be opened"):
        open_onnx(place)
    note.write_text(json.dumps(json.loads(note.read_text()) | {"format": 2}))
    with pytest.raises(UserError, match="has format 2, and this version reads format 1"):
        open_onnx(place)
    note.write_text("{}")
    with pytest.raises(UserError, match="is an incomplete copy of a model in ONNX"):
        open_onnx(place)
    graph.unlink()
    os.mkfifo(graph)
    with pytest.raises(UserError, match=r"query.onnx is a pipe or a device"):
        open_onnx(place)
