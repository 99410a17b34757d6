"""Captions -> token ids, as BLIP-2 reads them."""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import BertTokenizer

MAX_WORDS = 50
MAX_TOKENS = 32
KEPT_CAPTIONS = 2**18  # more than a data set has; their ids take some 100 MB at most
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
    A caption's ids are kept, because every epoch asks for them again while a GPU waits.
    """

    def __init__(
        self, wordpiece: BertTokenizer, *, max_length: int = MAX_TOKENS, fixed: bool = False
    ) -> None:
        self.wordpiece = wordpiece
        self.max_length = max_length
        self.fixed = fixed
        self._kept: dict[str, list[int]] = {}

    def __call__(self, captions: Sequence[str]) -> Tokens:
        """Tokens of B captions (T <= max_length)."""
        ids = self._ids(captions)
        lengths = np.array([len(each) for each in ids])
        width = self.max_length if self.fixed else lengths.max()
        counts = np.arange(width) < lengths[:, None]  # [B, T]
        padded = np.full(counts.shape, self.wordpiece.pad_token_id, np.int64)
        padded[counts] = np.fromiter(itertools.chain.from_iterable(ids), np.int64)
        return Tokens(torch.from_numpy(padded), torch.from_numpy(counts.astype(np.int64)))

    def _ids(self, captions: Sequence[str]) -> list[list[int]]:
        """The ids of each caption, without padding."""
        known = self._kept
        new = [caption for caption in dict.fromkeys(captions) if caption not in known]
        if new:
            found = self.wordpiece(
                [clean(caption) for caption in new], truncation=True, max_length=self.max_length
            )
            known = known | dict(zip(new, found["input_ids"], strict=True))  # threads share the old
            self._kept = known if len(known) <= KEPT_CAPTIONS else {}
        return [known[caption] for caption in captions]

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
