"""Dry runs: the command's own step, on random data in the real shapes, and no trace of it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SHORT
from published_model import golden_config

import blip_fine_tune_2
from gatedcir.assemble.model import build
from gatedcir.errors import UserError
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.weights import sources
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse
from gatedcir.resources import peak_memory
from gatedcir.training import dry_run as module
from gatedcir.training.dry_run import Measured, measure, report
from gatedcir.training.step import TrainingStep, make_accelerator, make_step

FORGET = Path("/proc/self/clear_refs")
TINY_IMAGE, TINY_FEATURES = (3, 64, 64), (65, 128)
FIGURES = Measured(
    device="cpu",
    precision="float32",
    trained=2_500_000,
    frozen=1_000_000,
    inputs=(4, 65, 128),
    text_tokens=32,
    vision=0.25,
    cached=2**19,
    room=77,
    steps=(3.0, 1.25),
    evaluation=0.5,
    evaluated=128,
    peak=3 * 2**29,
)


def config_of(*flags):
    return parse(Config, ["--dataset", "CIRR", *SHORT, *flags], description="")


def measured(*flags):
    config = config_of(*flags)
    model, tokenizer = build(config)
    return measure(make_step(config, make_accelerator(), model, tokenizer, steps_per_epoch=2))


@pytest.fixture
def quick(monkeypatch):
    """An evaluation batch of three."""
    monkeypatch.setattr(module.Evaluator, "batch_size", 3)


@pytest.fixture
def seen(monkeypatch, quick):
    """What steps and encoders were called with."""
    calls = {"step": [], "tower": [], "target": []}
    step, tower = TrainingStep.__call__, ComposedRetriever.levels
    target = ComposedRetriever.encode_target

    def note(kind, function):
        def noting(self, *arguments):
            calls[kind].append((self, arguments))
            return function(self, *arguments)

        return noting

    monkeypatch.setattr(TrainingStep, "__call__", note("step", step))
    monkeypatch.setattr(ComposedRetriever, "levels", note("tower", tower))
    monkeypatch.setattr(ComposedRetriever, "encode_target", note("target", target))
    return calls


def test_the_command_needs_no_data_and_leaves_nothing(tmp_path, monkeypatch, capsys, quick):
    monkeypatch.chdir(tmp_path)
    flags = ["--data-path", "nowhere", "--output", "run", "--save-best", "--save-training"]
    blip_fine_tune_2.main(["--dataset", "FashionIQ", *SHORT, *flags, "--dry-run"])
    printed = capsys.readouterr().out
    for line in ("dry run of tiny on", "parameters", "peak memory", "training step", "evaluation"):
        assert line in printed
    assert list(tmp_path.iterdir()) == []


def test_two_real_steps_on_cached_features(seen):
    found = measured("--batch-size", "5")
    assert len(seen["step"]) == len(found.steps) == 2
    step, (batch,) = seen["step"][0]
    assert batch.images[0].shape == found.inputs == (10, *TINY_FEATURES)
    assert len(batch.images[0].unique(dim=0)) == 10
    assert batch.references.tolist() + batch.targets.tolist() == list(range(10))
    tokens = step.tokenizer(batch.texts)
    assert tokens.input_ids.shape == (5, 32) and tokens.attention_mask.all()
    assert len(set(batch.texts)) == 5 and batch.target_ids.tolist() == [0, 1, 2, 3, 4]
    assert step.optimizer.state[step.model.prompt_tokens]["step"] == 2
    assert [images[0].shape[0] for _, (images,) in seen["target"]] == [3]
    # Pixels go through the tower once, apart from the steps, as many as a batch has.
    pixels = [i for _, (i,) in seen["tower"] if isinstance(i, torch.Tensor)]
    assert [tuple(p.shape) for p in pixels] == [(5, *TINY_IMAGE)]
    assert found.vision > 0 and found.cached == 65 * 128 * 4


@pytest.mark.parametrize("flags", [["--train-vision"], ["--cache-features", "none"]])
def test_pixels_where_the_command_reads_pixels(seen, flags):
    found = measured(*flags)
    _, (batch,) = seen["step"][0]
    assert tuple(batch.images.shape) == found.inputs == (8, *TINY_IMAGE)
    assert found.vision is None and found.cached == found.room == 0
    assert "in every step" in report(found, config_of(*flags))


@pytest.mark.usefixtures("quick")
def test_parameters_are_counted_by_whether_they_learn():
    frozen, all_trained = measured(), measured("--train-vision")
    model = build(config_of())[0]
    assert frozen.trained + frozen.frozen == sum(p.numel() for p in model.parameters())
    tower = model.backbone.vision_model
    norm = sum(p.numel() for p in tower.post_layernorm.parameters())
    learns_too = sum(p.numel() for p in tower.parameters()) - norm
    assert all_trained.trained - frozen.trained == learns_too > 0
    head = sum(p.numel() for p in model.backbone.itm_head.parameters())
    assert all_trained.frozen == head


def test_the_precision_is_the_commands(seen):
    found = measured("--mixed-precision", "bf16")
    assert found.precision == "bfloat16"
    _, (batch,) = seen["step"][0]
    assert batch.images[0].dtype == torch.bfloat16
    assert found.cached == 65 * 128 * 2


@pytest.mark.usefixtures("quick")
def test_a_whole_step_of_fusions_in_half_precision():
    visual = "--model.visual-layers -1 -4 --model.layer-fusion dynamic --model.neck multi-scale"
    found = measured("--mixed-precision", "bf16", "--batch-size", "2", *visual.split())
    assert len(found.steps) == 2


@pytest.mark.usefixtures("quick")
@pytest.mark.skipif(not FORGET.exists(), reason="only Linux forgets how much was held")
def test_memory_is_what_the_process_held():
    FORGET.write_text("5")
    before = peak_memory(torch.device("cpu"))
    assert 100 * 2**20 < before < 100 * 2**30
    held = torch.ones(2**26 + 2**25)
    del held
    assert measured().peak >= before + 2**28


@pytest.mark.usefixtures("quick")
def test_random_weights_at_other_sizes(monkeypatch):
    sizes = golden_config()
    sizes["qformer_config"]["vocab_size"] = 450
    monkeypatch.setitem(sources.RANDOM, "random-vit-g", sizes)
    found = measured("--backbone", "random-vit-g", "--image-size", "48")
    assert found.inputs == (8, 37, 48) and found.text_tokens == 32


def test_the_report_gives_all_figures():
    text = report(FIGURES, config_of())
    for part in (
        "dry run of tiny on cpu, float32", "2.5 M trained, 1.0 M frozen", "features [4, 65, 128]",
        "0.250 s an image", "0.50 MiB an image", "more than 77 images", "1.25 s, the first 3.00 s",
        "0.50 s for 128 images", "1.50 GiB of the process", "32 tokens",
    ):  # fmt: skip
        assert part in text, part
    assert "more than" not in report(FIGURES, config_of("--cache-features", "memory"))
    assert "1.50 GiB of the GPU" in report(replace(FIGURES, device="cuda:0"), config_of())
    assert all(re.match(r"  \w+( \w+)? +\S", line) for line in text.splitlines()[1:])


def test_bad_options_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(module, "build", lambda config: pytest.fail("weights were read"))
    for flags, words in (
        (["--batch-size", "1"], "no negatives"),
        (["--learning-rate", "nan"], "--learning-rate"),
    ):
        with pytest.raises(UserError, match=words):
            module.dry_run(config_of(*flags))
