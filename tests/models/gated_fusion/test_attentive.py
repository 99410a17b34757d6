"""The attentive strategies against a slow reference and their promises."""

import pytest
import torch
from fusion_inputs import HEADS, TEXT_WIDTH, WIDTH, inputs

from gatedcir.models.gated_fusion.attentive import AttentiveFusion

__all__ = ["inputs"]  # a fixture of another file

TEXTS = ("tokens", "contextual", "mean")


def make(text, *, seed=0, **settings):
    torch.manual_seed(seed)
    return AttentiveFusion(WIDTH, TEXT_WIDTH, text=text, heads=HEADS, **settings).eval()


def test_equals_attention_written_out(inputs):
    image, text, mask = inputs
    module = make("tokens")
    fused, aux = module(image, text, mask)
    size = WIDTH // HEADS
    for b in range(len(image)):
        words = text[b, mask[b] == 1]  # [t, D]
        keys, values = module.key_value(words).split(WIDTH, dim=-1)
        for place in range(image.shape[1]):
            normed = module.norm(image[b, place])
            query = module.query(normed)
            found, weights = [], []
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                weight = (keys[:, part] @ query[part] / size**0.5).softmax(0)
                found.append(weight @ values[:, part])
                weights.append(weight)
            found = torch.cat(found)
            gate = torch.sigmoid(module.gate(torch.cat([normed, found])))
            delta = torch.tanh(module.delta_net(found))
            torch.testing.assert_close(aux["gate"][b, place], gate)
            torch.testing.assert_close(aux["delta"][b, place], delta)
            change = (0.5 * gate * delta).abs().mean()
            torch.testing.assert_close(aux["change_map"][b, place], change)
            expected = image[b, place] + 0.5 * gate * delta
            torch.testing.assert_close(fused[b, place], expected)
            attention = aux["text_attention"][b, place, : len(words)]
            torch.testing.assert_close(attention, sum(weights) / HEADS)


@pytest.mark.parametrize("text", TEXTS)
def test_padding_has_no_influence(text, inputs):
    image, words, mask = inputs
    module = make(text)
    before, aux = module(image, words, mask)
    after, _ = module(image, torch.where(mask[..., None] == 1, words, 1e3), mask)
    torch.testing.assert_close(before, after)
    torch.testing.assert_close(aux["text_attention"].sum(-1), torch.ones(3, 5))
    assert (aux["text_attention"] * (1 - mask[:, None])).abs().max() < 1e-6


@pytest.mark.parametrize("text", TEXTS)
def test_identity_start_changes_nothing_and_learns(text, inputs):
    module = make(text, start="identity")
    fused, aux = module(*inputs)
    assert torch.equal(fused, inputs[0])
    assert aux["change"] == 0
    fused.square().sum().backward()
    assert module.delta_net[-1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("text", TEXTS)
def test_gradients_reach_all_parameters(text, inputs):
    module = make(text)
    fused, _ = module(*inputs)
    fused.square().sum().backward()
    without = {n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()}
    # Equal words are attended to equally, whatever asks for them.
    queries = {"query.weight", "query.bias"} if text == "mean" else set()
    assert without <= queries


def test_the_control_has_as_many_parameters_and_cannot_choose(inputs):
    contextual, control = make("contextual"), make("mean")
    count = [sum(p.numel() for p in module.parameters()) for module in (contextual, control)]
    assert count[0] == count[1]
    image, text, mask = inputs
    _, aux = control(image, text, mask)
    for row, length in zip(aux["text_attention"], mask.sum(1), strict=True):
        torch.testing.assert_close(row[:, :length], torch.full((5, length), 1 / length))


def test_context_lets_a_word_depend_on_its_neighbours(inputs):
    _, text, mask = inputs
    changed = text.clone()
    changed[0, 3] += 1
    for kind, reaches in (("tokens", False), ("contextual", True)):
        module = make(kind)
        first = [module._in_context(words, mask)[0, 0] for words in (text, changed)]
        assert torch.equal(*first) != reaches
