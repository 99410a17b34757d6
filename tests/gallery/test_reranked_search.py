"""Searches whose best images a matcher puts into a better order."""

import numpy as np
import pytest
import torch
from PIL import Image

import gatedcir
from gatedcir.models.matcher import Matcher


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Six pictures, their index, and a model with a matcher whose judgement is strong."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    for number in range(6):
        pixels = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 40)).save(folder / f"p{number}.png")
    retriever = gatedcir.Retriever.from_pretrained("tiny")
    torch.manual_seed(0)
    matcher = Matcher(retriever.model.backbone)
    torch.nn.init.normal_(matcher.head.weight, std=3.0)
    gallery = retriever.index(folder, to=folder.parent / "index")
    retriever.model.matcher = matcher.eval()
    return folder, retriever, gallery


def test_the_first_images_come_in_the_order_of_the_matcher(searched):
    folder, retriever, gallery = searched
    query = folder / "p0.png", "make it red"
    plain = gallery.search(*query, k=6, rerank=0)
    hits = gallery.search(*query, k=6, rerank=4)
    assert {h.path for h in hits[:4]} == {h.path for h in plain[:4]}
    assert [h.path for h in hits[4:]] == [h.path for h in plain[4:]]
    assert [h.path for h in hits[:4]] != [h.path for h in plain[:4]]
    asked = retriever.queries(*query)[0][0]
    scores = retriever.judge(asked, [h.path for h in plain[:4]], [h.score for h in plain[:4]])
    order = np.argsort(-scores)
    assert [h.path for h in hits[:4]] == [plain[i].path for i in order]
    assert [h.score for h in hits[:4]] == pytest.approx(scores[order].tolist(), abs=1e-2)
    assert gallery.search(*query, k=2, rerank=4)[1].path == hits[1].path


def test_a_file_that_is_gone_comes_last_of_the_judged_ones(searched):
    folder, retriever, _ = searched
    query = retriever.queries(folder / "p0.png", "make it red")[0][0]
    paths = [folder / "p1.png", folder / "lost.png", None]
    found = retriever.judge(query, paths, np.array([0.1, 0.9, 0.9], np.float32))
    assert np.isfinite(found).tolist() == [True, False, False]


def test_an_image_or_a_text_alone_is_not_judged(searched):
    folder, _, gallery = searched
    for query in ((folder / "p0.png", None), (None, "a dog")):
        scores = [[hit.score for hit in gallery.search(*query, rerank=n)] for n in (0, 4)]
        assert scores[0] == scores[1]
