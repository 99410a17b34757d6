"""A trained tower that keeps less computes the same gradients."""

import pytest
import torch
from conftest import encode_triplets

from gatedcir.assemble.model import build
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse
from gatedcir.training.losses import losses_of, total_loss

FLAGS = (
    "--dataset CIRR --train-vision --model.visual-scales 0.5 1.0 1.5 --model.visual-layers -1 -4"
)
FUSED = "--model.scale-fusion absi --model.layer-fusion dynamic --model.visual-start seed"
SAVING = ["--gradient-checkpointing", "--scales-sequential"]


def learn(*flags):
    """The gradients of one step with dropout, and the bytes that its graph keeps.

    Parameters are kept anyway. A tensor that is kept twice counts once.
    """
    config = parse(Config, [*FLAGS.split(), *FUSED.split(), *flags], description="")
    model, tokenizer = build(config)
    model.train()
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (
                storage.nbytes(),
                tensor,
            )  # alive, so no address comes twice
        return tensor

    images = torch.randn(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = encode_triplets(model, images[0], images[1], tokenizer(["a", "b c", "d", "e"]))
        loss = total_loss(losses_of(found, torch.arange(4), model.temp), config.loss)
        size = sum(nbytes for nbytes, _ in kept.values())
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, size


@pytest.fixture(scope="module")
def plain():
    return learn()


@pytest.mark.parametrize("flags", [SAVING[:1], SAVING[1:], SAVING], ids=" ".join)
def test_gradients_stay_the_same_bit_for_bit(plain, flags):
    gradients, size = learn(*flags)
    assert gradients.keys() == plain[0].keys()
    assert any(name.startswith("backbone.vision_model.encoder") for name in gradients)
    assert all(torch.equal(gradients[name], plain[0][name]) for name in gradients)
    assert size < 0.4 * plain[1]
