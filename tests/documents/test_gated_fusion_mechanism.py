"""The design document "Gated Fusion Mechanism", section by section, as its reader types it."""

import os
import sys
from pathlib import Path

import forked
import pytest
import torch

from gatedcir.models.gated_fusion import GatedFusion, GatedFusionModule
from gatedcir.models.gated_fusion.gated import tokens_and_aux
from gatedcir.models.gated_fusion.strategies import make_fusion, strategy
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse
from gatedcir.pretrained import TrainedRetriever

TESTS = Path(__file__).parents[1]


@pytest.fixture
def inputs():
    """Image tokens (2, 256, 768), a grid of 16 x 16, and text tokens (2, 6, 768)."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, count, 768, generator=generator) for count in (256, 6)]


@pytest.fixture
def gated_fusion():
    torch.manual_seed(0)
    return GatedFusionModule(hidden_size=768).eval()


def test_solution_one_tensor_in_one_tensor_out(gated_fusion, inputs):
    """Section "Solution": the call that stands in front of the Q-Former."""
    image_embeds, text_embeds = inputs
    image_embeds_fused = gated_fusion(image_embeds, text_embeds)
    fused, aux = gated_fusion(image_embeds, text_embeds, return_aux=True)
    assert torch.equal(image_embeds_fused, fused)
    expected = image_embeds + gated_fusion.alpha * aux["gate"] * aux["delta"]
    torch.testing.assert_close(fused, expected)


def test_solution_in_the_model():
    """Section "Solution": the class in the place of the pipeline's own gives the same query."""
    trained = TrainedRetriever.from_pretrained("tiny")
    model, words = trained.model, trained.tokenizer(["is red", "has a longer dress"])
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, model.backbone.image_size, model.backbone.image_size)
    own = GatedFusion(model.backbone.vision_width, model.backbone.width).eval()
    document = GatedFusionModule(model.backbone.vision_width, model.backbone.width).eval()
    document.load_state_dict(own.state_dict())
    model.fusion = own
    query, aux = model.encode_query(pixels, words)
    model.fusion = document
    same, also = model.encode_query(pixels, words)
    assert torch.equal(query, same)
    assert aux.keys() == also.keys()


@pytest.mark.parametrize("count", [1, 2])
def test_solution_a_fusion_that_gives_tokens_alone_is_used_too(count):
    """A batch of two would unpack as a pair."""
    image, text = torch.randn(count, 3, 4), torch.randn(count, 2, 4)
    plain = torch.nn.Bilinear(4, 4, 4)

    class Product(torch.nn.Module):
        def forward(self, image, text, text_mask):
            return plain(image, text[:, :1].expand_as(image).contiguous())

    tokens, aux = tokens_and_aux(Product(), image, text, torch.ones(count, 2))
    assert tokens.shape == image.shape
    assert aux == {}


def test_architecture_only_words_that_count_are_pooled(gated_fusion, inputs):
    """Section "GatedFusionModule", step 1; a mask by default counts all words."""
    image_embeds, text_embeds = inputs
    text_mask = torch.ones(2, 6)
    whole = gated_fusion(image_embeds, text_embeds)
    assert torch.equal(gated_fusion(image_embeds, text_embeds, text_mask), whole)
    text_mask[:, 4:] = 0
    masked = gated_fusion(image_embeds, text_embeds, text_mask)
    assert isinstance(masked, torch.Tensor)
    torch.testing.assert_close(masked, gated_fusion(image_embeds, text_embeds[:, :4]))
    assert not torch.equal(masked, whole)


def test_training_turns_it_on_without_another_flag():
    """Section "Use", 1: the command, and what is on by default."""
    command = (
        "--dataset CIRR --blip-model-name blip2_cir_align_prompt --backbone pretrain "
        "--num-epochs 10 --batch-size 64 --learning-rate 1e-5 --loss-align 0.4 --loss-rtc 0.4 "
        "--validation-frequency 1 --save-training --save-best --target-ratio 1.25 "
        "--transform targetpad"
    )
    config = parse(Config, command.split(), description="Test.")
    assert strategy(config.model.gated_fusion.strategy) is GatedFusion
    assert config.model.gated_fusion.alpha_init == 0.5
    assert (config.optim.num_epochs, config.optim.batch_size) == (10, 64)


def test_turning_it_off():
    """Section "Use", 2, and "Ablations", 1: without fusion the query is that of strategy none."""
    trained = TrainedRetriever.from_pretrained("tiny")
    model, words = trained.model, trained.tokenizer(["is red"])
    widths = model.backbone.vision_width, model.backbone.width
    settings = {"alpha_init": 0.5, "dropout": 0.1, "start": "seed", "blocks": 1}
    pixels = torch.randn(1, 3, model.backbone.image_size, model.backbone.image_size)
    model.fusion = make_fusion("none", *widths, **settings).eval()
    expected, _ = model.encode_query(pixels, words)
    with pytest.raises(ValueError, match="no fusion to use"):
        model.use_gated_fusion = True
    model.fusion = make_fusion("gated", *widths, **settings).eval()
    assert model.use_gated_fusion
    assert not torch.equal(model.encode_query(pixels, words)[0], expected)
    model.use_gated_fusion = False
    assert not model.use_gated_fusion
    assert torch.equal(model.encode_query(pixels, words)[0], expected)


@pytest.mark.parametrize("folder", [TESTS.parent, TESTS], ids=["root", "tests"])
def test_the_check_runs_without_pytest(folder, monkeypatch):
    """Section "Use", 3: `python test_gated_fusion.py`."""
    code = (
        "import runpy, sys; sys.modules['pytest'] = None; "
        "runpy.run_path('test_gated_fusion.py', run_name='__main__')"
    )
    monkeypatch.chdir(folder)
    found = forked.call([sys.executable, "-c", code], {**os.environ})
    assert found.returncode == 0, found.stderr
    for line in ("Parameters: 2,953,729", "Gate - mean: 0.5", "Fusion diff: 0.0", "checks passed"):
        assert line in found.stdout


@pytest.mark.parametrize("start", [0.5, 0.1, 1.0])
def test_ablations_of_alpha(start):
    """Section "Ablations", 3."""
    assert GatedFusionModule(hidden_size=8, alpha_init=start).alpha.item() == pytest.approx(start)


def test_debugging_the_gate(gated_fusion, inputs, tmp_path, monkeypatch):
    """Section "Debugging", 1 to 3: figures of the gate, size of the change, and the map."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    image_embeds, text_embeds = inputs
    with torch.no_grad():
        image_embeds_fused, aux = gated_fusion(image_embeds, text_embeds, return_aux=True)
    gate = aux["gate"]
    gate_mean = gate.mean().item()
    gate_std = gate.std().item()
    assert f"Gate - mean: {gate_mean:.3f}, std: {gate_std:.3f}".startswith("Gate - mean: 0.5")
    diff = (image_embeds_fused - image_embeds).abs().mean().item()
    assert diff == pytest.approx(aux["change"].item())
    gate_map = gate[0].mean(dim=-1).cpu().numpy()  # (N,)
    plt.figure(figsize=(8, 8))
    plt.imshow(gate_map.reshape(16, 16), cmap="hot")
    plt.colorbar()
    plt.title("Gate Activation Map")
    plt.savefig("gate_map.png")
    plt.close()
    assert (tmp_path / "gate_map.png").stat().st_size > 1000


def test_a_class_derived_from_the_documents_reports_to_the_pipeline():
    class Half(GatedFusionModule):
        def update(self, image, mean_text, delta):
            change, aux = super().update(image, mean_text, delta)
            return change / 2, aux

    fusion = Half(4, 4, start="seed").eval()
    image, text, mask = torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.ones(2, 5)
    tokens, aux = tokens_and_aux(fusion, image, text, mask)
    assert torch.equal(tokens, fusion(image, text, mask))
    assert aux.keys() >= {"gate", "alpha", "change"}
