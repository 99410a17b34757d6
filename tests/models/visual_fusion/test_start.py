"""A wrapped fusion begins as the identity and leaves it with the first step."""

import pytest
import torch

from gatedcir.models.visual_fusion.layers import LAYER_FUSIONS
from gatedcir.models.visual_fusion.start import ResidualStart

WIDTH = 4


class Doubled(torch.nn.Module):
    """A neck: takes one level."""

    def __init__(self, width):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((width,), 2.0))

    def forward(self, tokens):
        return self.scale * tokens, {"scale": self.scale}


def make_levels():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 5, WIDTH, generator=generator) for _ in range(2)]


@pytest.mark.parametrize("name", LAYER_FUSIONS)
def test_starts_as_the_identity_and_learns(name):
    torch.manual_seed(0)
    module = ResidualStart(LAYER_FUSIONS[name](width=WIDTH, num_levels=2), WIDTH)
    levels = make_levels()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    target = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))

    def backward():
        optimizer.zero_grad()
        tokens, aux = module(levels)
        (tokens - target).pow(2).sum().backward()
        return tokens, aux

    tokens, aux = backward()
    assert torch.equal(tokens, levels[0])
    assert aux["fusion_gain"].item() == 0
    assert module.gain.grad.all()
    trained = [p for p in module.module.parameters() if p.requires_grad]
    assert not any(p.grad.any() for p in trained)
    optimizer.step()
    tokens, aux = backward()
    assert not torch.allclose(tokens, levels[0])
    assert aux["fusion_gain"].item() > 0
    assert all(p.grad.any() for p in trained)


def test_value_and_aux():
    levels = make_levels()
    inner = LAYER_FUSIONS["weighted-sum"](width=WIDTH, num_levels=2)
    module = ResidualStart(inner, WIDTH)
    with torch.no_grad():
        module.gain.copy_(torch.tensor([0.0, 1.0, -2.0, 1.0]))
    fused, inner_aux = inner(levels)
    tokens, aux = module(levels)
    for channel, gain in enumerate((0, 1, -2, 1)):
        expected = levels[0][..., channel] + gain * fused[..., channel]
        torch.testing.assert_close(tokens[..., channel], expected)
    assert set(aux) == {"layer_weights", "fusion_gain"}
    assert torch.equal(aux["layer_weights"], inner_aux["layer_weights"])
    assert aux["fusion_gain"].item() == 1.0
    assert not aux["fusion_gain"].requires_grad


def test_the_main_level_may_be_another_than_the_first():
    levels = make_levels()
    mean = LAYER_FUSIONS["mean"](width=WIDTH, num_levels=2)
    tokens, _ = ResidualStart(mean, WIDTH, main=1)(levels)
    assert torch.equal(tokens, levels[1])


def test_takes_a_single_level():
    level = make_levels()[0]
    module = ResidualStart(Doubled(WIDTH), WIDTH)
    tokens, aux = module(level)
    assert torch.equal(tokens, level)
    assert set(aux) == {"scale", "fusion_gain"}
    with torch.no_grad():
        module.gain.fill_(0.5)
    torch.testing.assert_close(module(level)[0], 2 * level)


def test_parameter_count_at_width_1408():
    with torch.device("meta"):  # counted, not filled
        module = ResidualStart(LAYER_FUSIONS["weighted-sum"](width=1408, num_levels=2), 1408)
    assert sum(p.numel() for p in module.parameters()) == 1408 + 2 * 1408


def test_refuses_tokens_of_another_shape():
    class FirstToken(torch.nn.Module):
        def forward(self, levels):
            return levels[0][:, :1], {}

    with pytest.raises(ValueError, match=r"tokens \[2, 1, 4\] on top of tokens \[2, 5, 4\]"):
        ResidualStart(FirstToken(), WIDTH)(make_levels())
