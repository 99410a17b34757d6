"""Dropout that draws four numbers at once drops as torch's own does."""

import math

import pytest
import torch
import torch.nn.functional as F

from gatedcir.models.dropout import dropout

MANY = 200_000


def drawn(p, size=(MANY,), dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return dropout(torch.ones(size, dtype=dtype), p, training=True)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_is_right_and_the_mean_stays(p):
    found = drawn(p)
    spread = math.sqrt(p * (1 - p) / MANY)
    assert (found == 0).float().mean().item() == pytest.approx(p, abs=4 * spread)
    assert found.mean().item() == pytest.approx(1, abs=4 * spread / (1 - p))
    [scale] = found[found > 0].unique().tolist()
    rounded = round(p * 65536) / 65536
    assert scale == pytest.approx(1 / (1 - rounded), rel=1e-6)


@pytest.mark.parametrize("offset", [1, 2, 3, 4, 5])
def test_numbers_of_one_draw_do_not_depend_on_one_another(offset):
    dropped = drawn(0.5) == 0
    both = (dropped[offset:] & dropped[:-offset]).float().mean().item()
    assert both == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / MANY))


@pytest.mark.parametrize("count", [0, 1, 5, 8])
def test_any_count_of_numbers(count):
    assert drawn(0.5, (count,)).shape == (count,)


def test_the_gradient_takes_the_same_way():
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = dropout(x, 0.5, training=True)
    found.sum().backward()
    assert torch.equal(found, x * x.grad)
    assert set(x.grad.unique().tolist()) == {0.0, 2.0}


def test_the_generator_of_torch_decides():
    first = drawn(0.5)
    state = torch.get_rng_state()
    second = dropout(torch.ones(MANY), 0.5, training=True)
    torch.set_rng_state(state)
    assert torch.equal(second, dropout(torch.ones(MANY), 0.5, training=True))
    assert not torch.equal(first, second)
    assert torch.equal(first, drawn(0.5))


def test_half_precision_is_kept():
    assert drawn(0.1, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True), (1.0, True), (1e-9, True)])
def test_where_no_number_has_to_be_drawn_it_is_torch_s_own(p, training):
    x = torch.arange(4.0)
    assert torch.equal(dropout(x, p, training=training), x * (p < 1))


def test_compiled_code_takes_torch_s_own(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = drawn(0.5)
    torch.manual_seed(0)
    assert torch.equal(found, F.dropout(torch.ones(MANY), 0.5, True))
