"""The fusions of layers against their formulas, one position at a time."""

import math

import pytest
import torch

from gatedcir.models.visual_fusion.layers import LAYER_FUSIONS
from gatedcir.multiscale.dynamic_fusion import DynamicLayerFusion

WIDTH, LENGTH, BATCH = 6, 5, 3
NAMES = [
    "none",
    "mean",
    "dynamic",
    "dynamic-gate-only",
    "dynamic-no-gate",
    "concat",
    "weighted-sum",
    "channel-attention",
]
DYNAMIC = ["dynamic", "dynamic-gate-only", "dynamic-no-gate"]
LEARNED = NAMES[2:]


def make(name, *, num_levels=2, seed=0):
    torch.manual_seed(seed)
    return LAYER_FUSIONS[name](width=WIDTH, num_levels=num_levels).eval()


def make_levels(count=2, *, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(BATCH, LENGTH, WIDTH, generator=generator) for _ in range(count)]


def slow_dynamic(module, levels, *, weighted, gated):
    """Sum of weight * gate * token at every position, with loops."""
    fused = torch.zeros_like(levels[0])
    for b in range(BATCH):
        means = [sum(level[b, place] for place in range(LENGTH)) / LENGTH for level in levels]
        powers = [math.exp(score) for score in module.context_encoder(torch.cat(means)).tolist()]
        for i, level in enumerate(levels):
            for place in range(LENGTH):
                share = powers[i] / sum(powers) if weighted else 1.0
                if gated:
                    score = module.gate_generators[i](level[b, place]).item()
                    share /= 1 + math.exp(-score)
                fused[b, place] += share * level[b, place]
    return module.fusion_projection(fused)


def test_names():
    assert list(LAYER_FUSIONS) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shape(name, count):
    levels = make_levels(count)
    tokens, aux = make(name, num_levels=count)(levels)
    assert tokens.shape == levels[0].shape
    if "layer_weights" in aux:
        assert aux["layer_weights"].shape == (BATCH, count)
    if "layer_gates" in aux:
        assert aux["layer_gates"].shape == (BATCH, count, LENGTH)


def test_none_is_the_first_level():
    levels = make_levels(3)
    tokens, aux = make("none", num_levels=3)(levels)
    assert tokens is levels[0]
    assert aux == {}


def test_mean():
    levels = make_levels(3)
    tokens, aux = make("mean", num_levels=3)(levels)
    torch.testing.assert_close(tokens, (levels[0] + levels[1] + levels[2]) / 3)
    assert aux == {}


@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.parametrize("count", [2, 3])
def test_dynamic_equals_the_formula(name, count):
    module, levels = make(name, num_levels=count), make_levels(count)
    weighted, gated = name != "dynamic-gate-only", name != "dynamic-no-gate"
    tokens, aux = module(levels)
    expected = slow_dynamic(module, levels, weighted=weighted, gated=gated)
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
    assert ("layer_weights" in aux, "layer_gates" in aux) == (weighted, gated)
    if weighted:
        torch.testing.assert_close(aux["layer_weights"].sum(1), torch.ones(BATCH))
    if gated:
        assert ((aux["layer_gates"] > 0) & (aux["layer_gates"] < 1)).all()


def test_dynamic_by_hand():
    """Biases alone decide: weights 0.75 and 0.25, gates 0.8 and 0.9.

    What they multiply is 2 and 4 in the first channel, so 1.2 and 0.9 are added up there.
    """
    module = DynamicLayerFusion(2, 2).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.context_encoder[-1].bias[0] = math.log(3)
        for generator, odds in zip(module.gate_generators, (4, 9), strict=True):
            generator[-1].bias.fill_(math.log(odds))
        module.fusion_projection[0].weight.copy_(torch.eye(2))
    # What goes into the projection, before its LayerNorm.
    seen = []
    module.fusion_projection[0].register_forward_hook(lambda *call: seen.append(call[2]))
    aux = module([torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[4.0, -8.0]]])])[1]
    torch.testing.assert_close(seen[0], torch.tensor([[[1.2 + 0.9, -1.8]]]))
    torch.testing.assert_close(aux["layer_weights"], torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(aux["layer_gates"], torch.tensor([[[0.8], [0.9]]]))


def test_output_is_normalised_and_of_the_width_asked_for():
    tokens, _ = DynamicLayerFusion(WIDTH, 2, fusion_dim=8).eval()(make_levels())
    assert tokens.shape == (BATCH, LENGTH, 8)
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(BATCH, LENGTH), atol=1e-5, rtol=0)


def test_names_and_shapes_of_the_weights():
    """What weights trained elsewhere with the same structure are called."""
    gate = {"0.weight": (3, 6), "0.bias": (3,), "1.weight": (3,), "1.bias": (3,)}
    gate |= {"4.weight": (1, 3), "4.bias": (1,)}
    context = {"0.weight": (512, 12), "0.bias": (512,), "1.weight": (512,), "1.bias": (512,)}
    context |= {"4.weight": (2, 512), "4.bias": (2,)}
    projection = {"0.weight": (6, 6), "0.bias": (6,), "1.weight": (6,), "1.bias": (6,)}
    expected = {f"context_encoder.{name}": shape for name, shape in context.items()}
    for i in range(2):
        expected |= {f"gate_generators.{i}.{name}": shape for name, shape in gate.items()}
    expected |= {f"fusion_projection.{name}": shape for name, shape in projection.items()}
    state = DynamicLayerFusion(WIDTH).state_dict()
    assert {name: tuple(weight.shape) for name, weight in state.items()} == expected


def test_the_variants_share_their_weights():
    """All of the gated variant's, none of the gates without them."""
    state = make("dynamic").state_dict()
    make("dynamic-gate-only").load_state_dict(state, strict=True)
    rest = {k: v for k, v in state.items() if not k.startswith("gate_generators")}
    make("dynamic-no-gate").load_state_dict(rest, strict=True)


@pytest.mark.parametrize("name", LEARNED)
def test_gradients_reach_all_parameters_and_the_levels(name):
    module = make(name)
    if name == "dynamic-gate-only":
        assert not any(p.requires_grad for p in module.context_encoder.parameters())
    levels = [level.requires_grad_() for level in make_levels()]
    target = torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(2))
    (module(levels)[0] * target).sum().backward()
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None or not p.grad.any()] == []
    assert all(level.grad.any() for level in levels)


@pytest.mark.parametrize("name", NAMES)
def test_batch_entries_do_not_influence_one_another(name):
    module, levels = make(name), make_levels()
    alone = module([level[1:2] for level in levels])[0]
    torch.testing.assert_close(alone[0], module(levels)[0][1])


@pytest.mark.parametrize("name", DYNAMIC)
def test_dropout_only_in_training(name):
    module, levels = make(name), make_levels()
    assert torch.equal(module(levels)[0], module(levels)[0])
    module.train()
    assert not torch.equal(module(levels)[0], module(levels)[0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", 0),
        ("mean", 0),
        # Context 2816 -> 512 -> 2, for each layer a gate 1408 -> 704 -> 1, then 1408 -> 1408.
        (
            "dynamic",
            (2816 * 512 + 512 + 1024 + 512 * 2 + 2)
            + 2 * (1408 * 704 + 704 + 1408 + 704 + 1)
            + (1408 * 1408 + 1408 + 2816),
        ),
        (
            "dynamic-no-gate",
            (2816 * 512 + 512 + 1024 + 512 * 2 + 2) + (1408 * 1408 + 1408 + 2816),
        ),
        ("concat", 2 * (1408 * 64 + 64) + (128 * 1408 + 1408)),
        ("weighted-sum", 2 * 1408),
        ("channel-attention", 2816 * 2816 + 2816),
    ],
)
def test_parameter_count_at_width_1408(name, expected):
    with torch.device("meta"):  # counted, not filled
        module = LAYER_FUSIONS[name](width=1408, num_levels=2)
    assert sum(p.numel() for p in module.parameters()) == expected


@pytest.mark.parametrize("name", NAMES)
def test_refuses_levels_it_was_not_built_for(name):
    module, levels = make(name), make_levels()
    with pytest.raises(ValueError, match=r"widths \[6\] in a fusion of the widths \[6, 6\]"):
        module(levels[:1])
    with pytest.raises(ValueError, match=r"widths \[5, 5\]"):
        module([level[..., 1:] for level in levels])
    with pytest.raises(ValueError, match="unequal sizes"):
        module([levels[0], levels[1][:, 1:]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": 0}, "num_layers=0"),
        ({"encoder_output_size": 1}, "encoder_output_size=1"),
        ({"combine": "sum"}, "combine='sum'"),
        ({"combine": "gate_only", "use_gate": False}, "use_gate=True"),
    ],
)
def test_refuses_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        DynamicLayerFusion(**{"encoder_output_size": WIDTH, **settings})
