"""Captions -> token ids, as BLIP-2 reads them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import BertTokenizer

MAX_WORDS = 50
MAX_TOKENS = 32
_PUNCTUATION = re.compile(r"[.!\"()*#:;~]")


class Tokens(NamedTuple):
    """A batch of texts, padded on the right."""

    input_ids: Tensor  # [B, T] int64
    attention_mask: Tensor  # [B, T] int64, 1 where a token counts

    def to(self, device: torch.device | str) -> "Tokens":
        """The same tokens on another device."""
        return Tokens(*(part.to(device, non_blocking=True) for part in self))


def clean(caption: str) -> str:
    """Lower case, sentence punctuation and repeated spaces to one space, at most 50 words.

    >>> clean('Make it RED!  (and  bigger)')
    'make it red and bigger'
    """
    return " ".join(_PUNCTUATION.sub(" ", caption.lower()).split()[:MAX_WORDS])


class Tokenizer:
    """WordPiece tokens of cleaned captions, [CLS] first, cut at `max_length` tokens.

    They are padded to the longest caption of a batch. With `fixed`, all are padded to `max_length`.
    """

    def __init__(
        self, wordpiece: BertTokenizer, *, max_length: int = MAX_TOKENS, fixed: bool = False
    ) -> None:
        self.wordpiece = wordpiece
        self.max_length = max_length
        self.fixed = fixed

    def __call__(self, captions: Sequence[str]) -> Tokens:
        """Tokens of B captions (T <= max_length)."""
        encoded = self.wordpiece(
            [clean(caption) for caption in captions],
            padding="max_length" if self.fixed else "longest",
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return Tokens(encoded["input_ids"], encoded["attention_mask"])

    def words(self, caption: str) -> list[tuple[str, list[int]]]:
        """Each word of a caption, and the places (of T) of its tokens."""
        encoded = self.wordpiece([clean(caption)], truncation=True, max_length=self.max_length)
        tokens = self.wordpiece.convert_ids_to_tokens(encoded["input_ids"][0])
        found: list[tuple[str, list[int]]] = []
        before = None
        for place, (token, word) in enumerate(zip(tokens, encoded.word_ids(0), strict=True)):
            if word is not None and word == before:
                start, places = found[-1]
                found[-1] = (start + token.removeprefix("##"), [*places, place])
            else:
                found.append((token, [place]))
            before = word
        return found
