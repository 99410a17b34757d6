"""Searches whose best images a matcher puts into a better order."""

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cross_encoders import brightest, encoder, install
from PIL import Image

import gatedcir
from gatedcir.commands import search, serve
from gatedcir.models.matcher import Matcher


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Six pictures, their index, and a model with a matcher whose judgement is strong."""
    folder = tmp_path_factory.mktemp("reranked") / "photos"
    folder.mkdir()
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
    pages = [gallery.search(*query, k=3, start=start, rerank=4) for start in (0, 3, 6, 10**12)]
    assert [h.path for page in pages for h in page] == [h.path for h in hits]


def test_pages_behind_the_judged_images_are_not_judged_again(searched, monkeypatch):
    folder, retriever, gallery = searched
    monkeypatch.setattr(retriever, "judge", None)
    assert len(gallery.search(folder / "p0.png", "make it red", k=2, start=4, rerank=4)) == 2


def test_a_file_that_is_gone_comes_last_of_the_judged_ones(searched):
    folder, retriever, _ = searched
    query = retriever.queries(folder / "p0.png", "make it red")[0][0]
    paths = [folder / "p1.png", folder / "lost.png", None]
    found = retriever.judge(query, paths, np.array([0.1, 0.9, 0.9], np.float32))
    assert np.isfinite(found).tolist() == [True, False, False]


def test_a_lost_file_keeps_its_similarity_behind_the_judged_ones(searched, monkeypatch):
    """Of six files, the judge likes the third best and reads neither the first nor the second."""
    folder, retriever, gallery = searched
    plain = gallery.search(folder / "p0.png", "make it red", k=6, rerank=0)
    known = np.array([-np.inf, -np.inf, 9, 7], np.float32)
    monkeypatch.setattr(retriever, "judge", lambda query, paths, scores: known)
    hits = gallery.search(folder / "p0.png", "make it red", k=6, rerank=4)
    assert [h.path for h in hits] == [plain[i].path for i in (2, 3, 0, 1, 4, 5)]
    assert [h.score for h in hits] == [9, 7, *(plain[i].score for i in (0, 1, 4, 5))]


def test_an_image_or_a_text_alone_is_not_judged(searched):
    folder, _, gallery = searched
    for query in ((folder / "p0.png", None), (None, "a dog")):
        scores = [[hit.score for hit in gallery.search(*query, rerank=n)] for n in (0, 4)]
        assert scores[0] == scores[1]


def test_search_and_page_put_the_first_images_in_the_order_of_a_cross_encoder(
    searched, monkeypatch, capsys
):
    from gatedcir.page.asked import Asked

    folder, _, _ = searched
    install(monkeypatch, lambda *_, **__: encoder(brightest))
    with ExitStack() as stack:
        index = folder.parent / "index"
        site = serve.open_site(serve.Options(index=(index,), rerank=4, reranker="any"), stack)
        assert site.judges == [
            "The first 4 results of a picture with a text are put in order by any."
        ]
        [reference] = [picture for picture, name in site.examples(6) if name == "p0.png"]
        asked = Asked(reference, (("make it red", 1.0),), k=6)
        [(_, found)] = site.find(asked)
        others = {"alpha": 0.95}, {"more": (found[0].picture,)}, {"texts": (("a", 1.0),) * 2}
        seen = [one for other in others for one in site.find(replace(asked, **other))[0][1]]
    scores = [np.asarray(Image.open(folder / one.name).convert("RGB")).mean() for one in found[:4]]
    assert scores == sorted(scores, reverse=True)
    assert [one.score for one in found[:4]] == pytest.approx(scores)
    assert max(one.score for one in seen) <= 1  # a similarity: these the judge does not see
    words = ["--index", index, "--image", folder / "p0.png", "--text", "make it red", "--json"]
    shown = []
    for more in (["--rerank", "4", "--reranker", "any"], ["--rerank", "0", "--reranker", "any"]):
        search.main([str(word) for word in [*words, *more]])
        shown.append([Path(one["path"]).name for one in json.loads(capsys.readouterr().out)])
    assert shown[0] == [one.name for one in found] != shown[1]
    assert set(shown[0][:4]) == set(shown[1][:4]) and shown[0][4:] == shown[1][4:]
