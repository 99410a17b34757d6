"""Commands that are killed with kill -9 lose nothing. More kills: `python scripts/chaos.py`."""

import pytest
import torch
from chaos import Chaos, differences, equal


def test_a_training_that_is_killed_while_it_saves_loses_nothing(tmp_path):
    chaos = Chaos(tmp_path, seed=0)
    assert list(chaos.kill("checkpoint")) == []
    assert chaos.times["checkpoint"] and len(chaos.expected["train"]) == 6


def test_what_is_lost_or_changed_is_found():
    good = {"row 0": 1.0, "row 1": float("nan"), "last.pt of epoch 1": 0}
    assert list(differences({"last.pt of epoch 0": 0}, good, good)) == []
    assert len(list(differences({"row 2": 0}, good, good))) == 1
    assert len(list(differences({}, good, {**good, "row 0": 2.0}))) == 1
    assert len(list(differences({}, good, {**good, "row 2": 2.0}))) == 1


@pytest.mark.parametrize("value", [float("nan"), torch.ones(2), {"a": (1, [2.0])}])
def test_what_counts_as_equal(value):
    assert equal(value, value) and not equal(value, 0) and not equal({"a": value}, {"a": 0})
