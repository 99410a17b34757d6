"""The gate is taught the places of the reference that have no counterpart in the target."""

import math
from dataclasses import replace
from types import MappingProxyType

import pandas as pd
import pytest
import torch
from conftest import SHORT, bad

import blip_fine_tune_2
from gatedcir.assemble.model import build
from gatedcir.models.gated_fusion.gated import NoFusion
from gatedcir.models.gated_fusion.survival import Survival, gate_target, lost_in_target
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.options.config import Config, LossConfig
from gatedcir.options.model_config import GatedFusionConfig
from gatedcir.options.parsing import parse
from gatedcir.training.losses import losses_of, total_loss

TEXTS = ["is red", "has two blue circles"]
IDS = torch.arange(2)


def built(*flags):
    given = ["--dataset", "CIRR", *SHORT, "--loss-gate", "1", *flags]
    model, tokenizer = build(parse(Config, given, description=""))
    return model.eval(), tokenizer(TEXTS)


def images():
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def encoded(model, text, shown):
    return model(shown, torch.tensor([0, 1]), torch.tensor([2, 3]), text)


def test_a_place_is_lost_as_far_as_nothing_in_the_target_points_its_way():
    reference = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [-2.0, 0.0]]])
    target = torch.tensor([[[0.0, 5.0], [2.0, 0.0]]])
    torch.testing.assert_close(lost_in_target(reference, target), torch.tensor([[0.0, 0.2, 1.0]]))


def test_the_lesson_is_cut_and_leaves_the_images_own_token_out():
    level = torch.tensor(
        [[[9.0, 9.0], [1.0, 0.0], [3.0, 4.0]], [[9.0, 9.0], [0.0, 1.0], [1.0, 0.0]]]
    )
    other = level[:, [0, 2, 1]]
    found = gate_target([level], torch.tensor([0, 0]), torch.tensor([1, 0]), cut=0.4)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.5], [0.0, 0.0]]))
    both = gate_target([level, other], torch.tensor([0]), torch.tensor([1]), cut=0.4)
    torch.testing.assert_close(both, torch.tensor([[0.25, 0.25]]))
    assert gate_target([level], torch.tensor([0]), torch.tensor([1]), cut=0.1).max() == 1


def test_half_precision_is_compared_in_float32():
    tokens = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = lost_in_target(tokens, tokens)
    assert found.dtype == torch.float32
    assert found.abs().max() < 1e-6


@pytest.mark.parametrize("layers", [(), ("-1",), ("0", "2")])
def test_the_model_compares_the_layers_that_are_named(layers):
    named = ["--gate-target-layers", *layers] if layers else []
    model, text = built("--model.visual-layers", "-1", "-2", "--model.layer-fusion", "mean", *named)
    blocks = [int(layer) for layer in layers] or [-1, -2]
    taught = model.backbone.vision_levels(images(), blocks)
    expected = gate_target(taught, torch.tensor([0, 1]), torch.tensor([2, 3]), cut=0.3)
    for shown in (images(), model.levels(images())):  # from pixels, and from kept features
        torch.testing.assert_close(encoded(model, text, shown).gate_target, expected)


def test_scales_are_compared_at_the_size_that_the_fusion_sees():
    scales = "--model.visual-scales 0.5 1.0 --model.scale-fusion mean".split()
    model, text = built(*scales, "--gate-target-layers", "0", "-1")
    taught = model.backbone.vision_levels(images(), [0, -1])
    expected = gate_target(taught, torch.tensor([0, 1]), torch.tensor([2, 3]), cut=0.3)
    levels = model.levels(images())
    assert [level.shape[1:] for level in levels] == model.level_shapes()
    assert model.feature_bytes(torch.float32) == sum(level[0].nbytes for level in levels)
    found = encoded(model, text, levels)
    torch.testing.assert_close(found.gate_target, expected)
    assert found.gate.shape == expected.shape


def test_an_untaught_model_would_compare_the_layers_that_it_reads():
    flags = "--model.visual-layers -1 -2 --model.layer-fusion mean".split()
    flags += "--model.visual-scales 0.5 1.0 --model.scale-fusion mean".split()
    plain, _ = built(*flags, "--loss-gate", "0")
    taught, _ = built(*flags)
    levels = plain.levels(images())
    expected = plain.backbone.vision_levels(images(), [-1, -2])
    for place, level in zip(plain.lesson_places, expected, strict=True):
        torch.testing.assert_close(levels[place], level)
    assert plain.lesson_places == taught.lesson_places


def test_what_a_fusion_of_ones_own_reports_is_not_written_to(published):
    class Own(NoFusion):
        aux = MappingProxyType({"gate": torch.full((4, 1 + 16, 1), 0.5)})

        def forward(self, image, text, text_mask):
            return image, self.aux

    model, shown, targets, text = published
    model = ComposedRetriever(model.backbone, fusion=Own(), survival=Survival())
    found = model(torch.cat([shown, targets]), torch.arange(4), torch.arange(4, 8), text)
    assert torch.equal(found.aux["gate_target"], found.gate_target)
    assert list(Own.aux) == ["gate"]


def test_a_taught_model_encodes_as_one_that_is_not():
    plain, text = built("--loss-gate", "0")
    model, _ = built("--gate-target-layers", "0")
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model.encode_target(images()), plain.encode_target(images()))
    expected = plain.encode_query(images()[:2], text)[0]
    assert torch.equal(model.encode_query(images()[:2], text)[0], expected)
    assert encoded(plain, text, images()).gate is None


def test_the_loss_is_the_entropy_of_every_patch():
    model, text = built()
    found = encoded(model, text, images())
    _, aux = model.encode_query(images()[:2], text)
    gate = aux["gate"][:, 1:].mean(-1)
    torch.testing.assert_close(found.gate, gate)
    for shuffled, wanted in ((False, found.gate_target), (True, found.gate_target.flip(0))):
        losses = losses_of(found, IDS, model.temp, shuffled=shuffled)
        expected = -(wanted * gate.log() + (1 - wanted) * (1 - gate).log()).mean()
        torch.testing.assert_close(losses["loss_gate"], expected)
        rest = total_loss(losses, LossConfig())
        taught = total_loss(losses, LossConfig(loss_gate=3.0))
        torch.testing.assert_close(taught, rest + 3 * expected)


def test_a_gate_of_one_half_costs_log_2():
    model, text = built()
    found = encoded(model, text, images())
    half = torch.full_like(found.gate, 0.5, requires_grad=True)
    losses = losses_of(found._replace(gate=half), IDS, model.temp)
    assert losses["loss_gate"].item() == pytest.approx(math.log(2))


def test_the_change_may_be_taught_instead():
    model, text = built("--gate-target-for", "change")
    found = encoded(model, text, images())
    _, aux = model.encode_query(images()[:2], text)
    change = (aux["fused"] - model.visual_tokens(images()[:2])[0])[:, 1:].abs().mean(-1)
    expected = (change + 0.01) / (change.amax(-1, keepdim=True) + 0.02)
    torch.testing.assert_close(found.gate, expected)
    losses_of(found, IDS, model.temp)["loss_gate"].backward()
    learning = {n.split(".")[1] for n, p in model.named_parameters() if p.grad is not None}
    assert {"gate", "delta_net", "alpha"} <= learning
    still, text = built("--gate-target-for", "change", "--model.gated-fusion.start", "identity")
    assert (encoded(still, text, images()).gate == 0.5).all()


@pytest.mark.parametrize("reads", ["embeddings", "qformer"])
def test_the_lesson_reaches_the_gate_and_what_it_reads(reads):
    model, text = built("--model.gated-fusion.reads", reads)
    found = encoded(model, text, images())
    losses_of(found, IDS, model.temp)["loss_gate"].backward()
    learning = {n.split(".")[1] for n, p in model.named_parameters() if p.grad is not None}
    assert not found.gate_target.requires_grad
    assert "gate" in learning and "delta_net" not in learning
    last = model.backbone.qformer.encoder.layer[-1].output.dense.weight.grad
    assert (last is not None and last.abs().sum() > 0) == (reads == "qformer")


def test_a_fusion_that_claims_a_gate_and_gives_none_is_told(published):
    model, shown, targets, text = published
    model = ComposedRetriever(model.backbone, fusion=NoFusion(), survival=Survival())
    with pytest.raises(Exception, match="gives no gate for --loss-gate"):
        model(torch.cat([shown, targets]), torch.arange(4), torch.arange(4, 8), text)


def test_the_lesson_and_the_reading_are_those_of_the_config():
    config = parse(Config, ["--dataset", "CIRR", *SHORT], description="")
    model, _ = build(config)
    assert (model.reads, model.survival, model.more_layers) == ("embeddings", None, ())
    model, _ = build(
        replace(
            config,
            loss=LossConfig(loss_gate=1.0, gate_target_layers=(0, -1), gate_target_cut=0.2),
            model=replace(config.model, gated_fusion=GatedFusionConfig(reads="qformer")),
        )
    )
    assert (model.reads, model.survival) == ("qformer", Survival((0, -1), cut=0.2))
    assert model.more_layers == (0,)


def flags_of(home, *more):
    data = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset", *SHORT, "--no-save"]
    return [*data, "--validation-frequency", 0, "--learning-rate", 1e-3, *more]


def test_the_lesson_is_learned(home, tmp_path):
    more = ["--num-epochs", 3, "--warmup", 0, "--output", tmp_path / "run", "--loss-gate", 1]
    blip_fine_tune_2.main([str(flag) for flag in flags_of(home, *more)])
    taught = pd.read_csv(tmp_path / "run" / "train_metrics.csv")["loss_gate"]
    assert taught.iloc[-1] < taught.iloc[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.gated-fusion.strategy", "none"], ["--loss-gate 1.0", "none", "with a gate"]),
        (["--model.gated-fusion.strategy", "additive"], ["--loss-gate 1.0", "additive"]),
        (["--gate-target-layers", 99], ["99", "--gate-target-layers"]),
        (["--gate-target-cut", 0], ["--gate-target-cut 0.0"]),
        (["--gate-target", "shuffled", "--batch-size", 1], ["--gate-target shuffled"]),
        (["--loss-gate", -1], ["--loss-gate -1.0"]),
    ],
)
def test_what_cannot_be_taught_is_refused(home, tmp_path, flags, words):
    run = tmp_path / "run"
    bad(blip_fine_tune_2, flags_of(home, "--loss-gate", 1, *flags, "--output", run), *words)
    assert not run.exists()
