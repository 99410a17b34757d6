"""Random images and texts in a model's real shapes, to measure training without data.

Shapes: L visual tokens, Dv vision width.
"""

import random

import torch

from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokenizer
from gatedcir.visual import Visual


def random_images(
    model: ComposedRetriever,
    count: int,
    *,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> Visual:
    """Pixels [count, 3, H, W], or with a `dtype` features [count, L, Dv] as the cache keeps them.

    Args:
        model: gives the shapes, and the layers and scales of the features.
        count: how many images.
        dtype: of the features.
        generator: of the random numbers.
    """
    if dtype is None:
        return torch.randn(count, 3, *[model.backbone.image_size] * 2, generator=generator)
    return [
        torch.randn(count, *shape, generator=generator).to(dtype) for shape in model.level_shapes()
    ]


def random_texts(tokenizer: Tokenizer, count: int, *, words: tuple[int, int]) -> list[str]:
    """Texts of random whole words, with at least and at most so many of them."""
    known = sorted(word for word in tokenizer.wordpiece.get_vocab() if word.isalpha())
    rng = random.Random(0)
    return [" ".join(rng.choices(known, k=rng.randint(*words))) for _ in range(count)]
