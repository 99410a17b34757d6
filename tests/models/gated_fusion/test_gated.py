"""The fusion strategies against their formulas."""

import pytest
import torch
from fusion_inputs import inputs_of

from gatedcir.models.gated_fusion.gated import (
    AdditiveFusion,
    GatedFusion,
    InterpolatingFusion,
    NoFusion,
)
from gatedcir.models.gated_fusion.strategies import STRATEGIES, strategy

WIDTH, TEXT_WIDTH = 6, 4
FUSIONS = [GatedFusion, AdditiveFusion, InterpolatingFusion]
GATED = [GatedFusion, InterpolatingFusion]


def make(kind, *, text_width=TEXT_WIDTH, seed=0, **settings):
    torch.manual_seed(seed)
    return kind(WIDTH, text_width, **settings).eval()


@pytest.fixture
def inputs():
    """Image [3, 5, 6], text [3, 4, 4] and its mask, with 4, 2 and 1 tokens that count."""
    return inputs_of(WIDTH, TEXT_WIDTH)


def slow_parts(module, image, text, mask):
    """Gate (None without one) and delta, one position at a time, by real concatenation."""
    gate, delta = torch.zeros_like(image), torch.zeros_like(image)
    for b in range(len(image)):
        counted = [text[b, t] for t in range(text.shape[1]) if mask[b, t]]
        mean = module.text_projection(sum(counted) / len(counted))
        for place in range(image.shape[1]):
            delta[b, place] = module.delta_net(mean)
            if hasattr(module, "gate"):
                both = torch.cat([module.gate.norm(image[b, place]), mean])  # [2 Dv]
                gate[b, place] = module.gate.rest(module.gate.first(both))
    return (gate if hasattr(module, "gate") else None), delta


def test_the_published_strategies_have_their_names():
    expected = {
        "gated": GatedFusion,
        "additive": AdditiveFusion,
        "interpolate": InterpolatingFusion,
        "none": NoFusion,
    }
    assert {name: strategy(name) for name in STRATEGIES}.items() >= expected.items()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (GatedFusion, 2_953_729),
        (AdditiveFusion, 2 * (768 * 768 + 768) + 1),
        (InterpolatingFusion, 2_953_728),
    ],
)
def test_parameter_count_at_width_768(kind, expected):
    with torch.device("meta"):  # counted, not filled
        found = sum(p.numel() for p in kind(768, 768).parameters())
    assert found == expected
    if kind is GatedFusion:
        assert found == pytest.approx(2.95e6, rel=0.01)


@pytest.mark.parametrize("kind", GATED)
def test_gate_equals_the_concatenated_formula(kind, inputs):
    module = make(kind)
    expected, _ = slow_parts(module, *inputs)
    torch.testing.assert_close(module(*inputs)[1]["gate"], expected)


def test_gate_normalises_the_image_but_the_residual_does_not(inputs):
    image, text, mask = inputs
    module = make(GatedFusion)
    out, aux = module(image, text, mask)
    moved, moved_aux = module(3 * image + 2, text, mask)
    torch.testing.assert_close(moved_aux["gate"], aux["gate"], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved - (3 * image + 2), out - image, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_gate_and_delta_are_bounded(scale, inputs):
    image, text, mask = inputs
    module = make(GatedFusion, alpha_init=1.0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    out, aux = module(image, scale * text, mask)
    assert aux["gate"].min() >= 0
    assert aux["gate"].max() <= 1
    assert aux["gate"].shape == image.shape
    # Without the gate's share, the update is delta: tanh keeps it in [-1, 1].
    delta = make(AdditiveFusion, alpha_init=1.0)
    delta.load_state_dict(
        {k: v for k, v in module.state_dict().items() if not k.startswith("gate")}
    )
    update = delta(torch.zeros_like(image), scale * text, mask)[0]
    assert update.abs().max() <= 1
    # Summing rounds: (image + update) - image may miss the bound by an ulp of the image.
    assert ((out - image).abs() <= aux["gate"] * update.abs() + 1e-5).all()


@pytest.mark.parametrize("kind", FUSIONS)
def test_formula(kind, inputs):
    image = inputs[0]
    settings = {} if kind is InterpolatingFusion else {"alpha_init": 0.7}
    module = make(kind, **settings)
    gate, delta = slow_parts(module, *inputs)
    expected = {
        GatedFusion: lambda: image + 0.7 * gate * delta,
        AdditiveFusion: lambda: image + 0.7 * delta,
        InterpolatingFusion: lambda: gate * (image + delta) + (1 - gate) * image,
    }[kind]()
    out, aux = module(*inputs)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(aux["change"], (expected - image).abs().mean())
    torch.testing.assert_close(aux["change_map"], (expected - image).abs().mean(-1))
    torch.testing.assert_close(aux["delta"].expand_as(image), delta)
    assert aux["change"] > 0.01


def test_interpolation_is_the_gated_strategy_with_alpha_one(inputs):
    gated, interpolating = (
        make(GatedFusion, alpha_init=1.0),
        make(InterpolatingFusion, seed=5),
    )
    weights = gated.state_dict()
    del weights["alpha"]
    interpolating.load_state_dict(weights, strict=True)
    torch.testing.assert_close(interpolating(*inputs)[0], gated(*inputs)[0])


def test_none_returns_the_image(inputs):
    out, aux = NoFusion()(*inputs)
    assert out is inputs[0]
    assert aux == {}


@pytest.mark.parametrize("kind", FUSIONS)
def test_masked_tokens_have_no_influence(kind, inputs):
    image, text, mask = inputs
    module = make(kind)
    out = module(image, text, mask)[0]
    noise = torch.where(mask[..., None].bool(), text, torch.full_like(text, 1e4))
    torch.testing.assert_close(module(image, noise, mask)[0], out, atol=0, rtol=0)
    counted = torch.where(mask[..., None].bool(), text + 1, text)
    assert not torch.allclose(module(image, counted, mask)[0], out)


@pytest.mark.parametrize("kind", FUSIONS)
def test_batch_entries_do_not_influence_one_another(kind, inputs):
    image, text, mask = inputs
    module = make(kind)
    together = module(image, text, mask)[0]
    for b in range(len(image)):
        alone = module(image[b : b + 1], text[b : b + 1], mask[b : b + 1])[0]
        torch.testing.assert_close(alone[0], together[b])


@pytest.mark.parametrize("kind", FUSIONS)
def test_identity_start_is_exact_and_learns(kind, inputs):
    image = inputs[0]
    module = make(kind, start="identity")
    out = module(*inputs)[0]
    assert torch.equal(out, image)
    (out * image.sign()).sum().backward()
    last = module.delta_net[-2]
    assert last.weight.grad.abs().max() > 0
    assert last.bias.grad.abs().max() > 0
    with torch.no_grad():
        for parameter in (last.weight, last.bias):
            parameter.sub_(0.1 * parameter.grad)
    assert not torch.allclose(module(*inputs)[0], image)


@pytest.mark.parametrize("kind", FUSIONS)
def test_seed_start_changes_the_image(kind, inputs):
    assert not torch.allclose(make(kind, start="seed")(*inputs)[0], inputs[0])


@pytest.mark.parametrize("kind", FUSIONS)
def test_only_unequal_widths_project_the_text(kind, inputs):
    image, text, mask = inputs
    module = make(kind)
    assert module.text_projection.weight.shape == (WIDTH, TEXT_WIDTH)
    same = make(kind, text_width=WIDTH)
    assert not list(same.text_projection.parameters())
    wide = torch.nn.functional.pad(text, (0, WIDTH - TEXT_WIDTH))
    assert same(image, wide, mask)[0].shape == image.shape


@pytest.mark.parametrize("kind", [GatedFusion, AdditiveFusion])
@pytest.mark.parametrize("start", [0.1, 0.5, 1.0])
def test_alpha_starts_where_it_is_told(kind, start, inputs):
    image = inputs[0]
    module = make(kind, alpha_init=start)
    out, aux = module(*inputs)
    assert module.alpha.item() == pytest.approx(start)
    assert aux["alpha"].item() == pytest.approx(start)
    unit = make(kind, alpha_init=1.0)(*inputs)[0]  # the same weights
    torch.testing.assert_close(out - image, start * (unit - image), atol=1e-6, rtol=0)
    assert make(kind).alpha.item() == 0.5


@pytest.mark.parametrize("kind", FUSIONS)
def test_gradients_reach_all_parameters_and_the_inputs(kind, inputs):
    image, text, mask = inputs
    image.requires_grad_()
    text.requires_grad_()
    module = make(kind)
    module(image, text, mask)[0].pow(2).sum().backward()
    without = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert image.grad.any()
    assert torch.equal(text.grad.abs().sum(-1) > 0, mask.bool())


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (GatedFusion, {"change", "change_map", "delta", "gate", "alpha"}),
        (AdditiveFusion, {"change", "change_map", "delta", "alpha"}),
        (InterpolatingFusion, {"change", "change_map", "delta", "gate"}),
    ],
)
def test_aux_keys(kind, keys, inputs):
    aux = make(kind)(*inputs)[1]
    assert set(aux) == keys
    assert not any(aux[name].requires_grad for name in keys - {"gate"})


@pytest.mark.parametrize("kind", FUSIONS)
def test_dropout_only_in_training(kind, inputs):
    module, without = make(kind, dropout=0.5), make(kind, dropout=0.0)
    assert torch.equal(module(*inputs)[0], without(*inputs)[0])
    module.train()
    assert not torch.equal(module(*inputs)[0], module(*inputs)[0])
    without.train()
    assert torch.equal(without(*inputs)[0], without(*inputs)[0])
