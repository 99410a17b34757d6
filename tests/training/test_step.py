"""A compiled training step learns what the plain one does."""

import re
from functools import partial, partialmethod

import pytest
import torch
from conftest import SHORT
from torch import nn

import gatedcir.training.step
from gatedcir.data.batches import Batch
from gatedcir.errors import UserError
from gatedcir.models.backbone import Backbone
from gatedcir.models.gated_fusion.gated import GatedFusionModule
from gatedcir.models.gated_fusion.survival import Survival
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokenizer
from gatedcir.models.weights.sources import load
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse
from gatedcir.training.step import check_launch, make_accelerator, make_step

TEXTS = ["is red", "has two blue circles and is larger"]


def learn(*flags):
    """Loss of the second of two steps, and the weights behind it."""
    given = ["--dataset", "CIRR", *SHORT, "--loss-gate", "1", *flags]
    config = parse(Config, given, description="")
    tiny = load("tiny")
    sizes = tiny.backbone.config.to_dict()
    for part in ("vision_config", "qformer_config"):
        sizes[part]["num_hidden_layers"] = 2  # tracing takes seconds a layer
    torch.manual_seed(0)
    backbone = Backbone.from_config(sizes)
    fusion = GatedFusionModule(backbone.vision_width, backbone.width)
    model = ComposedRetriever(backbone, fusion=fusion, reads="qformer", survival=Survival())
    model.backbone.set_attention("eager")  # as on CPUs
    tokenizer = Tokenizer(tiny.wordpieces)
    step = make_step(config, make_accelerator(), model, tokenizer, steps_per_epoch=10)
    generator = torch.Generator().manual_seed(0)
    tokens = model.backbone.token_count(), model.backbone.vision_width
    step.wrapped.eval()  # dropout draws otherwise when compiled
    for targets in ([1, 2], [0, 1]):  # three images, then two
        images = [torch.randn(1 + max(targets), *tokens, generator=generator)]
        places = torch.tensor([0, 0]), torch.tensor(targets)
        loss, losses, _ = step(Batch(images, *places, TEXTS, torch.arange(2)))
    return loss, losses, model.state_dict()


@pytest.mark.parametrize(("given", "kept"), [(-1.0, 0.001), (99.0, 0.5)])
def test_the_temperature_stays_within_its_bounds(given, kept, monkeypatch):
    """Also if a step moves it far."""

    class Moved(ComposedRetriever):
        def train(self, mode=True):
            torch.nn.init.constant_(self.temp, given)
            return super().train(mode)

    monkeypatch.setattr(f"{__name__}.ComposedRetriever", Moved)
    _, _, weights = learn("--learning-rate", "0")
    assert weights["temp"] == torch.tensor(kept)


def test_a_compiled_step_learns_the_same(monkeypatch):
    calls = []

    def graph_without_code(graph, inputs):
        calls.append(graph)
        return graph

    compiled = partialmethod(nn.Module.compile, backend=graph_without_code)
    monkeypatch.setattr(nn.Module, "compile", compiled)
    loss, losses, weights = learn()
    assert not calls
    found, terms, learnt = learn("--compile")
    assert len(calls) == 1  # for any number of images
    torch.testing.assert_close(found, loss, atol=1e-5, rtol=1e-5)
    assert "loss_gate" in terms
    torch.testing.assert_close(terms, losses, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(learnt, weights, atol=1e-5, rtol=1e-4)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(gatedcir.training.step.shutil, "which", lambda name: None)
    monkeypatch.setattr(gatedcir.training.step.os, "environ", {"CXX": "strange++"})
    config = parse(Config, ["--dataset", "CIRR", "--compile"], description="")
    with pytest.raises(UserError, match=r"--compile needs the C\+\+ compiler strange\+\+"):
        check_launch(config, torch.device("cpu"))


@pytest.mark.parametrize("flags", [["--compile"], ["--mixed-precision", "fp16"]])
def test_what_does_not_go_with_shards_is_refused(monkeypatch, flags):
    config = parse(Config, ["--dataset", "CIRR", *flags], description="")
    monkeypatch.setattr(gatedcir.training.step, "shards_are_asked_for", lambda: True)
    with pytest.raises(UserError, match=f"{' '.join(flags)} does not go with weights in shards"):
        check_launch(config, torch.device("cuda"))


def test_the_benchmark_measures_three_steps(capsys, monkeypatch):
    import bench_step
    import step_times

    small = partial(step_times.limits, side=64, copied=2**12)
    monkeypatch.setattr(step_times, "limits", small)
    bench_step.main(["--batch-size", "2", "--repeats", "1", "--profile"])
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| ") and "float" in line]
    assert len(rows) == 3 and "as published, float32" in rows[-1]
    parts = dict(re.findall(r"^\| (\w[^|]*?) +\| +[\d.]+ \| +(\d+)% \|", printed, re.MULTILINE))
    assert {"matrix products", "optimiser", "casts"} < set(parts)
    assert abs(sum(map(int, parts.values())) - 100) <= len(parts)  # each is rounded


def test_operations_have_kinds():
    from step_profile import kind_of

    kinds = {"aten::addmm": "matrix products", "aten::add_": "element by element"}
    kinds |= {"aten::_softmax_backward_data": "softmax, norms, activations"}
    assert {name: kind_of(name) for name in kinds} == kinds
    assert kind_of("aten::copy_", "aten::_to_copy") == "casts" == kind_of("aten::_to_copy")
    assert kind_of("aten::copy_", "aten::contiguous") == "copies and look-ups"
