"""A batch in chunks gives the loss and the gradients of the whole batch."""

from dataclasses import replace

import pytest
import torch
from accelerate import DistributedType
from conftest import SHORT

import gatedcir.training.step
from gatedcir.assemble.model import build
from gatedcir.data.batches import Batch
from gatedcir.errors import UserError
from gatedcir.models.text import Tokens
from gatedcir.options.checks import check_ranges
from gatedcir.options.config import Config, LossConfig
from gatedcir.options.parsing import parse
from gatedcir.training.accumulate import backward_in_chunks, split
from gatedcir.training.losses import losses_of, total_loss
from gatedcir.training.step import make_accelerator, make_step
from gatedcir.visual import take

BATCH, CHUNKS = 5, 2
TARGET_IDS = torch.tensor([0, 1, 2, 1, 3])  # one target in both chunks
# Images that occur twice: in one chunk, in both, as a reference and as a target.
PLACES = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([2, 4, 5, 4, 6])
CPU = torch.device("cpu")
TEXTS = ["is red", "has two blue circles", "is larger and has no hole", "the same", "is striped"]
# The map of another triplet may come from another chunk.
TAUGHT = "--model.gated-fusion.strategy attentive --loss-gate 2 --gate-target-layers 0 -1".split()
SCALES = "--model.visual-scales 0.5 1.0 --model.scale-fusion mean --loss-scale 0.3".split()


def model_and_batch(*flags):
    config = parse(Config, ["--dataset", "CIRR", *SHORT, *flags], description="")
    model, tokenizer = build(config)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(7, 3, 64, 64, generator=generator)
    with torch.no_grad():
        levels = [level.float() for level in model.levels(images)]
    return config, model, tokenizer, (levels, *PLACES)


def without_sharing(images, references, targets):
    """The same triplets with an image of its own for every reference and target."""
    places = torch.cat([references, targets])
    return take(images, places), *torch.arange(len(places)).chunk(2)


def loss_of(found, temperature):
    losses = losses_of(found, TARGET_IDS, temperature, shuffled=True)
    return total_loss(losses, LossConfig(loss_scale=0.3, loss_gate=2.0)), losses


def gradients_of(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def in_chunks(model, chunks):
    model.zero_grad()
    return backward_in_chunks(
        model, chunks, temperature=model.temp, loss_of=loss_of, scale=lambda x: x, device=CPU
    )


def chunks_of(model, tokenizer, images):
    words = zip(*(part.tensor_split(CHUNKS) for part in tokenizer(TEXTS)), strict=True)
    levels, *places = images
    return [
        lambda part=part, text=text: model(take(levels, part.images), *part[1:], Tokens(*text))
        for part, text in zip(split(*places, CHUNKS), words, strict=True)
    ]


def agree(model, loss, expected_loss, expected):
    torch.testing.assert_close(loss, expected_loss, atol=1e-6, rtol=1e-6)
    found = gradients_of(model)
    assert found.keys() == expected.keys()
    assert "temp" in found
    largest = max(g.abs().max() for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6 * largest, rtol=1e-4, msg=name)


@pytest.mark.parametrize("flags", [[], SCALES, TAUGHT], ids=["plain", "scales", "taught"])
def test_chunks_equal_the_whole_batch(flags):
    _, model, tokenizer, images = model_and_batch(*flags)
    model.eval()
    expected_loss, expected_terms = loss_of(model(*images, tokenizer(TEXTS)), model.temp)
    expected_loss.backward()
    expected = gradients_of(model)
    loss, terms, _ = in_chunks(model, chunks_of(model, tokenizer, images))
    agree(model, loss, expected_loss.detach(), expected)
    assert terms.keys() == expected_terms.keys()


@pytest.mark.parametrize("flags", [[], SCALES], ids=["plain", "scales"])
def test_an_image_that_occurs_twice_is_read_once(flags):
    _, model, tokenizer, images = model_and_batch(*flags)
    model.eval()
    read = []
    hook = model.visual_fusion.register_forward_pre_hook(
        lambda _, levels: read.append(len(levels[0][0]))
    )
    loss, _ = loss_of(model(*without_sharing(*images), tokenizer(TEXTS)), model.temp)
    loss.backward()
    expected = gradients_of(model)
    model.zero_grad()
    found, _ = loss_of(model(*images, tokenizer(TEXTS)), model.temp)
    found.backward()
    hook.remove()
    assert read == [2 * BATCH, 7]
    agree(model, found, loss.detach(), expected)


def test_dropout_is_the_same_in_both_passes():
    _, model, tokenizer, images = model_and_batch()
    model.train()
    chunks = chunks_of(model, tokenizer, images)
    torch.manual_seed(7)
    # The whole batch with its graph, drawn in the same order.
    parts = [chunk() for chunk in chunks]
    whole = parts[0]._replace(
        query=torch.cat([p.query for p in parts]),
        text=torch.cat([p.text for p in parts]),
        targets=torch.cat([p.targets for p in parts]),
        fusion_mean=torch.cat([p.fusion_mean for p in parts]),
    )
    expected_loss, _ = loss_of(whole, model.temp)
    expected_loss.backward()
    expected, next_draw = gradients_of(model), torch.rand(3)
    torch.manual_seed(7)
    loss, _, _ = in_chunks(model, chunks)
    agree(model, loss, expected_loss.detach(), expected)
    assert torch.equal(torch.rand(3), next_draw)
    torch.manual_seed(8)  # and the test would notice other numbers
    assert not torch.allclose(in_chunks(model, chunks)[0], loss, atol=1e-4)


def test_a_step_in_chunks_moves_the_weights_as_one_in_one_piece():
    config, model, tokenizer, images = model_and_batch("--batch-size", str(BATCH))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    results = []
    for count in (1, CHUNKS, BATCH):
        model.load_state_dict(before)
        model.eval()
        chosen = replace(config, optim=replace(config.optim, accumulate=count, warmup=0.0))
        step = make_step(chosen, make_accelerator(), model, tokenizer, steps_per_epoch=2)
        for group in step.optimizer.param_groups:
            group["eps"] = 1e-3
        loss, _, aux = step(Batch(*images, TEXTS, TARGET_IDS))
        assert not aux["gate"].isnan().any()
        results.append((loss.detach(), {n: v.clone() for n, v in model.state_dict().items()}))
    (loss, weights), *others = results
    assert not torch.equal(weights["temp"], before["temp"])
    for other_loss, other in others:
        torch.testing.assert_close(other_loss, loss, atol=1e-6, rtol=1e-6)
        for name, value in weights.items():
            torch.testing.assert_close(other[name], value, atol=1e-8, rtol=1e-6, msg=name)


def test_other_programs_steps_are_refused(monkeypatch):
    class Foreign:
        distributed_type = DistributedType.DEEPSPEED

    monkeypatch.setattr(gatedcir.training.step, "Accelerator", lambda **_: Foreign())
    with pytest.raises(UserError, match=r"DEEPSPEED has .*eight_gpus_fsdp"):
        make_accelerator()


@pytest.mark.parametrize("count", ["0", "9"])
def test_parts_that_cannot_be(count):
    flags = ["--dataset", "CIRR", *SHORT, "--accumulate", count]
    with pytest.raises(UserError, match="--accumulate"):
        check_ranges(parse(Config, flags, description=""))
