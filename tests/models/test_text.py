"""Captions -> token ids."""

from types import SimpleNamespace

import pytest
import torch
from transformers import BertTokenizer

from gatedcir.models import text
from gatedcir.models.text import MAX_WORDS, Tokenizer, Tokens, clean

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "make", "it", "red", "small", "##er", "?"]
PAD, UNKNOWN, CLS, SEP, _, MAKE, IT, RED, SMALL, ER, QUESTION = range(len(WORDS))


@pytest.fixture(scope="module")
def wordpiece():
    return BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Make it RED!", "make it red"),
        ("  Is   blue.Has (long) sleeves ", "is blue has long sleeves"),
        ('a "b" *c* #d: e; ~f', "a b c d e f"),
        ("is it red? yes, v-neck's 50%", "is it red? yes, v-neck's 50%"),
        ("tab\tand\nline", "tab and line"),
        ("...", ""),
        ("", ""),
    ],
)
def test_clean_by_hand(caption, expected):
    assert clean(caption) == expected


def test_clean_keeps_the_first_fifty_words():
    words = [f"w{i}" for i in range(60)]
    assert MAX_WORDS == 50
    assert clean(" ".join(words)) == " ".join(words[:50])
    assert clean(" ".join(words[:50])) == " ".join(words[:50])


def test_tokens_by_hand(wordpiece):
    found = Tokenizer(wordpiece)(["Make it SMALLER, unheard?", "(Red.)", ""])
    # A comma stays and is no entry of this vocabulary.
    assert found.input_ids.tolist() == [
        [CLS, MAKE, IT, SMALL, ER, UNKNOWN, UNKNOWN, QUESTION, SEP],
        [CLS, RED, SEP] + [PAD] * 6,
        [CLS, SEP] + [PAD] * 7,
    ]
    assert found.attention_mask.tolist() == [[1] * 9, [1] * 3 + [0] * 6, [1] * 2 + [0] * 7]
    assert found.input_ids.dtype == found.attention_mask.dtype == torch.int64


@pytest.mark.parametrize("fixed", [False, True])
def test_kept_ids_are_padded_as_transformers_pads_them(wordpiece, fixed):
    tokenizer = Tokenizer(wordpiece, max_length=7, fixed=fixed)
    captions = ["red", "make it smaller, red", "", "make it red " * 5, "red"]
    padding = "max_length" if fixed else "longest"
    for asked in (captions, captions[::-1], ["red", "small"], captions[:1]):
        expected = wordpiece(
            [clean(each) for each in asked],
            padding=padding,
            truncation=True,
            max_length=7,
            return_tensors="pt",
        )
        found = tokenizer(asked)
        assert torch.equal(found.input_ids, expected["input_ids"])
        assert torch.equal(found.attention_mask, expected["attention_mask"])
    tokenizer.wordpiece = SimpleNamespace(pad_token_id=PAD)  # all ids are known now
    assert torch.equal(tokenizer(captions[:1]).input_ids, found.input_ids)


def test_only_so_many_captions_are_kept(wordpiece, monkeypatch):
    monkeypatch.setattr(text, "KEPT_CAPTIONS", 2)
    tokenizer = Tokenizer(wordpiece)
    captions = ["red", "small", "make it"]
    whole = tokenizer(captions)
    assert len(tokenizer._kept) <= 2
    for caption, ids in zip(captions, whole.input_ids, strict=True):
        found = tokenizer([caption]).input_ids[0]
        assert torch.equal(found, ids[: len(found)])
        assert len(tokenizer._kept) <= 2


def test_padding_goes_to_the_longest_of_the_batch(wordpiece):
    tokenizer = Tokenizer(wordpiece)
    alone, together = tokenizer(["red"]), tokenizer(["red", "make it red"])
    assert alone.input_ids.shape == (1, 3)
    assert together.input_ids.shape == (2, 5)
    assert torch.equal(together.input_ids[:1, :3], alone.input_ids)


def test_truncation_keeps_the_last_separator(wordpiece):
    found = Tokenizer(wordpiece, max_length=6)(["make it red " * 4, "red"])
    assert found.input_ids.tolist() == [
        [CLS, MAKE, IT, RED, MAKE, SEP],
        [CLS, RED, SEP, PAD, PAD, PAD],
    ]
    assert found.attention_mask.tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]


def test_length_limits(wordpiece):
    assert Tokenizer(wordpiece)(["red " * 60]).input_ids.shape == (1, 32)
    long = Tokenizer(wordpiece, max_length=100)(["red " * 60])
    assert long.input_ids.shape == (1, MAX_WORDS + 2)


def test_tokens_move_together():
    tokens = Tokens(torch.ones(1, 2), torch.zeros(1, 2)).to("meta")
    assert isinstance(tokens, Tokens)
    assert {tensor.device.type for tensor in tokens} == {"meta"}


def test_words_are_put_together_again_with_the_places_of_their_tokens(wordpiece):
    expected = [("[CLS]", [0]), ("make", [1]), ("smaller", [2, 3]), ("small", [4]), ("[SEP]", [5])]
    assert Tokenizer(wordpiece).words("Make smaller SMALL") == expected
    cut = Tokenizer(wordpiece, max_length=4)
    places = [place for _, some in cut.words("make it red smaller") for place in some]
    assert places == list(range(cut(["make it red smaller"]).input_ids.shape[1]))
