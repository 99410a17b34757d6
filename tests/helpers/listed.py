"""A large index that lists every gallery from 16 features on, and looks into all lists."""

import pytest

from gatedcir.search import large
from gatedcir.search.ivfpq import Lists


class Listed(large.LargeIndex):
    """It saves after every addition, so that the first stage is used."""

    def __init__(self, folder, form):
        super().__init__(folder, form)
        self.lists = Lists(nprobe=10**6)

    def add(self, *of_images):
        super().add(*of_images)
        self.save()


@pytest.fixture
def listed(monkeypatch):
    """Every image is a candidate."""
    monkeypatch.setattr(large, "LEAST", 16)
    monkeypatch.setattr(large, "_SHARE", 0)
    return Listed
