"""What is computed again equals what was kept."""

import copy

import pytest
import torch
from torch import nn

from gatedcir.multiscale.networks import MultiScaleModel, PyramidNetwork, UNet
from gatedcir.multiscale.recompute import call, enable_gradient_checkpointing


def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Dropout(0.5), nn.Conv2d(4, 2, 1)
    ).double()


def step(module, images, *, recompute, backwards=1):
    """Output, gradients, buffers and the next random number after a step."""
    torch.manual_seed(1)
    result = call(module, images, recompute=recompute)
    for _ in range(backwards):
        result.square().sum().backward(retain_graph=True)
    gradients = [one.grad for one in module.parameters()]
    return [result, *gradients, *module.buffers(), torch.rand(1)]


@pytest.mark.parametrize("backwards", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_results_gradients_and_statistics_are_the_same(training, backwards):
    plain = make().train(training)
    other = copy.deepcopy(plain)
    images = torch.randn(2, 3, 6, 6).double()
    expected = step(plain, images, recompute=False, backwards=backwards)
    found = step(other, images, recompute=True, backwards=backwards)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize("momentum", [0.1, None])  # None is the mean of all batches
def test_a_batch_is_counted_once(momentum):
    plain = make()
    plain[1].momentum = momentum
    other = copy.deepcopy(plain)
    for _ in range(3):
        images = torch.randn(2, 3, 6, 6).double()
        step(plain, images, recompute=False)
        step(other, images, recompute=True)
    assert other[1].num_batches_tracked == 3
    assert other[1].momentum == momentum
    assert torch.equal(other[1].running_var, plain[1].running_var)


def test_it_can_be_called_without_gradients():
    module, images = make().eval(), torch.randn(2, 3, 6, 6).double()
    with torch.no_grad():
        assert torch.equal(call(module, images, recompute=True), module(images))


NETWORKS = [
    lambda: PyramidNetwork(3, 1, 3, 4),
    lambda: UNet(3, 1, [4, 8]),
    lambda: MultiScaleModel(base_model=make(), fusion_method="sum"),
]


def trained_step(network, images):
    """Bytes that autograd keeps, less the inputs of recomputed parts; the output and gradients."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(images)
    output.square().sum().backward()
    return sum(kept.values()), [output, *(one.grad for one in network.parameters())]


@pytest.mark.parametrize("network", NETWORKS)
def test_the_context_keeps_less_and_changes_nothing(network):
    torch.manual_seed(0)
    network = network().double()
    images = torch.randn(2, 3, 24, 20, dtype=torch.float64)
    plain, twin = copy.deepcopy(network), copy.deepcopy(network)
    before, expected = trained_step(plain, images)
    with enable_gradient_checkpointing():
        during, found = trained_step(twin, images)
    assert during < 0.75 * before
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    again, _ = trained_step(copy.deepcopy(network), images)
    assert again == before


def test_the_context_ends_with_an_error_too():
    network, images = PyramidNetwork(3, 1, 2, 4), torch.randn(1, 3, 8, 8)
    before, _ = trained_step(network, images)
    with pytest.raises(KeyError), enable_gradient_checkpointing():
        raise KeyError
    assert trained_step(network, images)[0] == before
