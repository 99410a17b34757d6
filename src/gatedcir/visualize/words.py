"""Attention to tokens -> attention to the words that a reader sees. Pure: no files, no figures.

Shapes: L visual tokens, T text tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_SPECIAL = ("[CLS]", "[SEP]")


def word_shares(
    attention: Tensor, words: Sequence[tuple[str, Sequence[int]]]
) -> tuple[list[str], Tensor]:
    """Each word's share of the attention, summed over its tokens: [L, T] -> names, [L, words].

    [CLS], [SEP] and punctuation are left out. The shares of the other words sum to 1 at each place.

    Args:
        attention: rows of sum 1.
        words: each word, and the places of its tokens.

    >>> words = [("[CLS]", [0]), ("red", [1]), (",", [2]), ("stripes", [3, 4]), ("[SEP]", [5])]
    >>> word_shares(torch.tensor([[0.25, 0.125, 0.125, 0.125, 0.25, 0.125]]), words)
    (['red', 'stripes'], tensor([[0.2500, 0.7500]]))
    """
    real = [(name, list(places)) for name, places in words if _is_read(name)]
    if not real:
        return [], attention[:, :0]
    shares = torch.stack([attention[:, places].sum(1) for _, places in real], dim=1)
    least = torch.finfo(shares.dtype).tiny  # where a place attends to no word at all
    return [name for name, _ in real], shares / shares.sum(1, keepdim=True).clamp(min=least)


def _is_read(word: str) -> bool:
    return word not in _SPECIAL and any(letter.isalnum() for letter in word)
