"""Two passes as one give what they give one after the other, gradients included."""

from unittest.mock import patch

import pytest
import torch

from gatedcir.assemble.model import build
from gatedcir.data.batches import Batch
from gatedcir.models import passes
from gatedcir.models.passes import first_pass, target_pass, text_features
from gatedcir.options.config import Config, DataConfig
from gatedcir.options.model_config import GatedFusionConfig, ModelConfig
from gatedcir.training.losses import losses_of
from gatedcir.training.random_data import random_images

TEXTS = ["is red", "has a small blue dot and no stripes", "moves"]
COUNT = len(TEXTS)


@pytest.fixture
def parts():
    torch.manual_seed(0)
    fusion = GatedFusionConfig(strategy="grounded")
    return build(Config(data=DataConfig("CIRR"), model=ModelConfig(gated_fusion=fusion)))


def encoded(model, tokenizer):
    """Features of three triplets, and the gradients of a loss that has all of them."""
    images = random_images(model, 2 * COUNT, dtype=None)
    batch = Batch.all_different(images, TEXTS)
    model.zero_grad()
    found = model(batch.images, batch.references, batch.targets, tokenizer(TEXTS))
    losses = losses_of(found, batch.target_ids, model.temp)
    sum(losses.values()).backward()
    features = (found.query, found.text, found.targets, found.fusion_mean)
    return features, {name: p.grad for name, p in model.named_parameters()}


def test_joined_passes_equal_single_ones(parts):
    model, tokenizer = parts
    torch.manual_seed(1)
    features, gradients = encoded(model, tokenizer)
    torch.manual_seed(1)

    def first_ones(backbone, words, mask, *, image, targets):
        prompts = first_pass(backbone, None, words, mask, image=image)
        return prompts, target_pass(backbone, targets)

    def second_ones(backbone, one, other, mask):
        return text_features(backbone, one, mask), text_features(backbone, other, mask)

    with patch.multiple(passes, fusion_and_target_pass=first_ones, features_of_both=second_ones):
        expected, wanted = encoded(model, tokenizer)
    for one, other in zip(features, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        assert (gradient is None) == (wanted[name] is None), name
        if gradient is not None:
            bound = 1e-5 * max(1.0, wanted[name].abs().max().item())
            torch.testing.assert_close(gradient, wanted[name], atol=bound, rtol=1e-4)


@pytest.mark.parametrize(
    ("on_gpu", "compiling", "count"), [(False, False, 2), (True, False, 3), (False, True, 3)]
)
def test_targets_join_where_padding_costs_nothing(parts, on_gpu, compiling, count):
    model, tokenizer = parts
    done = 0

    def counted(module, args, output):
        nonlocal done
        done += 1

    first = model.backbone.qformer.encoder.layer[0]
    first.attention.attention.query.register_forward_hook(counted)
    with (
        patch("gatedcir.models.qformer.saves_arithmetic", lambda device: not on_gpu),
        patch("torch.compiler.is_compiling", lambda: compiling),
    ):
        encoded(model, tokenizer)
    assert done == count


@pytest.mark.parametrize("branch", ["none", "second", "both"])
@torch.no_grad()
def test_a_step_encodes_what_single_calls_encode(branch):
    torch.manual_seed(0)
    config = Config(data=DataConfig("CIRR"), model=ModelConfig(query_branch=branch))
    model, tokenizer = build(config)
    for parameter in () if model.query_branch is None else model.query_branch.parameters():
        parameter.mul_(1.1)  # else it is a copy of the model's own
    images, words = random_images(model, 2 * COUNT, dtype=None), tokenizer(TEXTS)
    references, targets = torch.arange(2 * COUNT).chunk(2)
    found = model.eval()(images, references, targets, words)
    shown, wanted = images.tensor_split(2)
    torch.testing.assert_close(found.query, model.encode_query(shown, words)[0])
    torch.testing.assert_close(found.targets, model.encode_target(wanted))
    torch.testing.assert_close(found.text, model.encode_text(words))
