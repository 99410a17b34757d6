"""Attention to tokens becomes attention to the words that a reader sees."""

import pytest
import torch

from gatedcir.visualize.words import word_shares

WORDS = [("[CLS]", [0]), ("not", [1]), ("red", [2]), (",", [3]), ("red", [4, 5]), ("[SEP]", [6])]


def test_shares_of_the_words_alone_sum_to_one():
    attention = torch.tensor([[0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], [0.0, 1, 0, 0, 0, 0, 0]])
    names, shares = word_shares(attention, WORDS)
    assert names == ["not", "red", "red"]
    torch.testing.assert_close(shares, torch.tensor([[0.25, 0.25, 0.5], [1.0, 0.0, 0.0]]))


def test_a_place_that_attends_to_no_word_has_no_share():
    _, shares = word_shares(torch.eye(7)[:1], WORDS)
    assert shares.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("words", [[], [("[CLS]", [0]), ("?", [1]), ("[SEP]", [2])]])
def test_a_text_may_have_no_word(words):
    names, shares = word_shares(torch.rand(4, 3), words)
    assert names == [] and shares.shape == (4, 0)
