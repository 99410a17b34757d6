"""A small input of the fusions. Two widths are those of fusions that attend to the words."""

import pytest
import torch

WIDTH, TEXT_WIDTH, HEADS = 8, 12, 2


def inputs_of(width, text_width):
    """Image [3, 5, width], text [3, 4, text_width] and its mask: 4, 2 and 1 tokens count."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(3, 5, width, generator=generator)
    text = torch.randn(3, 4, text_width, generator=generator)
    return image, text, torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])


@pytest.fixture
def inputs():
    """Image, text and mask of the widths above."""
    return inputs_of(WIDTH, TEXT_WIDTH)
