"""The grounded strategy against torch's own decoder, and its promises."""

import pytest
import torch
from fusion_inputs import HEADS, TEXT_WIDTH, WIDTH, inputs
from torch import nn

from gatedcir.models.gated_fusion.grounded import GroundedFusion

__all__ = ["inputs"]  # a fixture of another file


def make(*, seed=0, **settings):
    torch.manual_seed(seed)
    return GroundedFusion(WIDTH, TEXT_WIDTH, heads=HEADS, **settings).eval()


def as_torch_has_it(layer):
    """torch's decoder layer with the same weights."""
    other = nn.TransformerDecoderLayer(
        TEXT_WIDTH, HEADS, 2 * TEXT_WIDTH, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    pairs = {
        "self_attn": layer.to_places,
        "multihead_attn": layer.to_words,
        "linear1": layer.feed_forward[0],
        "linear2": layer.feed_forward[2],
        "norm1": layer.norms[0],
        "norm2": layer.norms[1],
        "norm3": layer.norms[2],
    }
    for name, module in pairs.items():
        getattr(other, name).load_state_dict(module.state_dict())
    return other


def test_equals_torch_s_decoder(inputs):
    image, text, mask = inputs
    module = make(alpha_init=0.7)
    fused, aux = module(image, text, mask)
    places = module.enter(module.norm(image))
    for layer in module.layers:
        places = as_torch_has_it(layer)(places, text, memory_key_padding_mask=mask == 0)
    places = module.leave(places)
    gate, delta = module.gate(places).sigmoid(), module.delta_net(places).tanh()
    torch.testing.assert_close(aux["gate"], gate)
    torch.testing.assert_close(aux["delta"], delta)
    torch.testing.assert_close(fused, image + 0.7 * gate * delta)
    torch.testing.assert_close(aux["change_map"], (0.7 * gate * delta).abs().mean(-1))


@pytest.mark.parametrize("pooled", [False, True])
def test_padding_has_no_influence(pooled, inputs):
    image, words, mask = inputs
    module = make(pooled=pooled)
    before, aux = module(image, words, mask)
    after, _ = module(image, torch.where(mask[..., None] == 1, words, 1e3), mask)
    torch.testing.assert_close(before, after)
    torch.testing.assert_close(aux["text_attention"].sum(-1), torch.ones(3, 5))
    assert (aux["text_attention"] * (1 - mask[:, None])).abs().max() < 1e-6


def test_a_place_sees_the_others(inputs):
    image, text, mask = inputs
    changed = image.clone()
    changed[:, 4, 0] += 1
    module = make()
    gates = [module(one, text, mask)[1]["gate"][:, 0] for one in (image, changed)]
    assert not torch.equal(*gates)


def test_the_control_has_as_many_parameters_and_cannot_tell_the_words_apart(inputs):
    image, text, mask = inputs
    module, control = make(), make(pooled=True)
    count = [sum(p.numel() for p in each.parameters()) for each in (module, control)]
    assert count[0] == count[1]
    # Other words with the same mean: the first and third doubled, the others moved to nothing.
    words = text[:1] * torch.tensor([2.0, 0.0, 2.0, 0.0])[None, :, None]
    words = words + (text[:1] - words).mean(1, keepdim=True)
    for each, same in ((module, False), (control, True)):
        gates = [each(image[:1], one, mask[:1])[1]["gate"] for one in (text[:1], words)]
        assert torch.allclose(*gates, atol=1e-6) == same


@pytest.mark.parametrize("pooled", [False, True])
def test_identity_start_changes_nothing_and_learns(pooled, inputs):
    module = make(pooled=pooled, start="identity")
    fused, aux = module(*inputs)
    assert torch.equal(fused, inputs[0])
    assert aux["change"] == 0
    fused.square().sum().backward()
    assert module.delta_net[-1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("pooled", [False, True])
def test_gradients_reach_all_parameters(pooled, inputs):
    module = make(pooled=pooled)
    fused, _ = module(*inputs)
    fused.square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name


def test_defaults_are_two_layers_of_four_heads():
    module = GroundedFusion(WIDTH, TEXT_WIDTH)
    assert len(module.layers) == 2
    assert module.layers[0].to_words.num_heads == 4
    assert module.layers[0].dropout.p == 0.1
    assert module.alpha.item() == 0.5
