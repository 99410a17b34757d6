"""A cross-encoder of sentence-transformers orders the first images of a search."""

import json
import sys

import numpy as np
import pytest
from conftest import bad
from cross_encoders import encoder, install
from PIL import Image

from gatedcir.commands import evaluate
from gatedcir.errors import UserError
from gatedcir.evaluation import cross_encoder
from gatedcir.evaluation.cross_encoder import CrossEncoderReranker, load_cross_encoder
from gatedcir.evaluation.reranking import Asked, Candidate
from gatedcir.models.weights import locations

GREYS = {"dark": 10, "middle": 100, "light": 200}


def picture(name):
    return Image.new("L", (4, 4), GREYS[name])


def brightness(pairs):
    """A judge that likes candidates as bright as the text says, and looks at the reference too."""
    for asked, candidate in pairs:
        assert set(asked) == {"image", "text"} and set(candidate) == {"image"}
        yield -abs(int(asked["text"]) - np.asarray(candidate["image"].convert("L")).mean())


def test_pairs_of_query_and_candidate_are_scored():
    judge = CrossEncoderReranker(encoder(brightness), picture)
    candidates = [Candidate(name, 0.0) for name in GREYS]
    found = judge.rerank(Asked("dark", "190"), candidates)
    assert found.tolist() == [-180, -90, -10] and found.dtype == np.float32


def test_more_than_one_score_of_a_pair_is_refused():
    judge = CrossEncoderReranker(encoder(lambda pairs: [[1, 2] for _ in pairs]), picture)
    with pytest.raises(UserError, match="single score"):
        judge.rerank(Asked("dark", "1"), [Candidate("light", 0.0)])


def test_evaluation_is_reranked_by_it(home, cirr_run, tmp_path, monkeypatch, capsys):
    def liked(pairs):
        """The worse the candidate's place in the gallery was, the better: brightest first."""
        return [float(np.asarray(image["image"]).mean()) for _, image in pairs]

    install(monkeypatch, lambda name, device, trust_remote_code: encoder(liked))
    data = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset")]
    flags = ["--model-path", str(cirr_run), *data, "--device", "cpu", "--no-composition"]
    out = tmp_path / "out.json"
    evaluate.main([*flags, "--json", str(out), "--rerank", "5", "--reranker", "any"])
    printed = capsys.readouterr().out
    assert "reranked: the first 5 of each query" in printed
    reranked = json.loads(out.read_text())["metrics"]
    evaluate.main([*flags, "--json", str(out)])
    plain = json.loads(out.read_text())["metrics"]
    assert reranked["recall_at5"] == plain["recall_at5"]  # the same five images
    assert reranked["recall_at50"] == plain["recall_at50"]


def test_what_cannot_be_opened_gets_one_sentence(home, cirr_run, monkeypatch):
    def missing(name, device, trust_remote_code):
        assert not trust_remote_code
        raise OSError(f"{name} is not a local folder\nand more lines")

    install(monkeypatch, lambda *_, **__: pytest.fail("the library tries again for a minute"))
    monkeypatch.setattr(cross_encoder, "is_reachable", locations.is_reachable)
    monkeypatch.setattr(locations, "HfApi", lambda: 1 / 0)  # as without a network
    flags = ["--model-path", cirr_run, "--reranker"]
    bad(evaluate, [*flags, "maker/nowhere"], "there is no cross-encoder maker/nowhere here, and on")
    bad(evaluate, [*flags, "no/hub/name"], "there is no cross-encoder no/hub/name here")
    install(monkeypatch, missing)
    bad(
        evaluate,
        [*flags, "nowhere"],
        "the cross-encoder nowhere could not be opened",
        "not a local folder",
    )
    install(monkeypatch, lambda *_, **__: encoder(brightness, reads=False))
    with pytest.raises(UserError, match="does not read an image with a text"):
        load_cross_encoder("text-only", "cpu")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"pip install 'gatedcir\[rerank\]'"):
        load_cross_encoder("any", "cpu")


def test_the_library_itself_predicts_from_such_pairs():
    library = pytest.importorskip("sentence_transformers")
    import torch

    class Bright(torch.nn.Module):
        """A random model's place: reads pairs of dicts and gives each one number."""

        modalities = ("text", "image", "message", ("image", "text"))

        def preprocess(self, inputs, **_):
            return {
                "grey": torch.tensor([[float(np.asarray(b["image"]).mean())] for _, b in inputs])
            }

        def forward(self, features, **_):
            return features | {"scores": features["grey"]}

    found = library.CrossEncoder(modules=[Bright()], device="cpu")
    judge = CrossEncoderReranker(found, picture)
    scores = judge.rerank(Asked("dark", "x"), [Candidate(name, 0.0) for name in GREYS])
    assert np.argsort(scores).tolist() == [0, 1, 2]
