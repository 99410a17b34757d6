"""sentence-transformers and a cross-encoder of it, as far as they are used."""

import sys
from types import SimpleNamespace

import numpy as np

from gatedcir.evaluation import cross_encoder


def encoder(predict, reads=True):
    return SimpleNamespace(
        predict=lambda pairs, show_progress_bar: list(predict(pairs)), supports=lambda kinds: reads
    )


def brightest(pairs):
    """The brightest candidate is the best."""
    return [float(np.asarray(candidate["image"]).mean()) for _, candidate in pairs]


def install(monkeypatch, make):
    module = SimpleNamespace(CrossEncoder=make)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    monkeypatch.setattr(cross_encoder, "is_reachable", lambda name: True)
