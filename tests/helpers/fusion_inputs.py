"""A small input of the fusions whose places attend to the words."""

import pytest
import torch

WIDTH, TEXT_WIDTH, HEADS = 8, 12, 2


@pytest.fixture
def inputs():
    """Image [3, 5, 8], text [3, 4, 12] and its mask, with 4, 2 and 1 tokens that count."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(3, 5, WIDTH, generator=generator)
    text = torch.randn(3, 4, TEXT_WIDTH, generator=generator)
    return image, text, torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
