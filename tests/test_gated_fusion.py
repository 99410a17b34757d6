"""A plain check of the gated fusion, as the design document asks for. It needs no pytest.

It prints what it finds, and ends with an error if something is wrong. python test_gated_fusion.py
runs it, from this folder or from the project's.
The formulas of all strategies are tested in models/gated_fusion/test_gated.py.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from gatedcir.models.gated_fusion import GatedFusionModule
from gatedcir.pretrained import TrainedRetriever

WIDTH = 768


def example():
    """The module, image tokens (2, 257, 768) and text tokens (2, 12, 768)."""
    torch.manual_seed(0)
    module = GatedFusionModule(hidden_size=WIDTH).eval()
    return module, torch.randn(2, 257, WIDTH), torch.randn(2, 12, WIDTH)


def test_size():
    gated_fusion, _, _ = example()
    count = sum(one.numel() for one in gated_fusion.parameters())
    print(f"Parameters: {count:,} (about 2.95 million at width 768)")
    assert abs(count - 2.95e6) < 0.01e6
    assert gated_fusion.alpha.item() == 0.5


def test_one_tensor_of_the_images_shape():
    gated_fusion, image_embeds, text_embeds = example()
    fused = gated_fusion(image_embeds, text_embeds)
    print(f"Shapes: {[*image_embeds.shape]} and {[*text_embeds.shape]} -> {[*fused.shape]}")
    assert fused.shape == image_embeds.shape
    assert fused.isfinite().all()


def test_gate_and_delta():
    gated_fusion, image_embeds, text_embeds = example()
    fused, aux = gated_fusion(image_embeds, text_embeds, return_aux=True)
    gate, delta = aux["gate"], aux["delta"]
    print(f"Gate - mean: {gate.mean():.3f}, std: {gate.std():.3f}, within 0 and 1")
    print(f"Delta - lowest: {delta.min():.3f}, highest: {delta.max():.3f}, within -1 and 1")
    diff = (fused - image_embeds).abs().mean().item()
    print(f"Fusion diff: {diff:.6f}")
    assert gate.shape == image_embeds.shape
    assert 0 <= gate.min() < gate.max() <= 1
    assert -1 <= delta.min() < delta.max() <= 1
    assert diff > 0
    torch.testing.assert_close(fused, image_embeds + gated_fusion.alpha * gate * delta)


def test_padding_does_not_count():
    gated_fusion, image_embeds, text_embeds = example()
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[:, 7:] = 0
    short = gated_fusion(image_embeds, text_embeds[:, :7])
    gap = (gated_fusion(image_embeds, text_embeds, mask) - short).abs().max().item()
    print(f"Padding: seven words, and the same with five masked ones, differ by {gap:.1e}")
    assert gap < 1e-5


def test_everything_learns():
    gated_fusion, image_embeds, text_embeds = example()
    gated_fusion(image_embeds, text_embeds).square().sum().backward()
    named = dict(gated_fusion.named_parameters())
    without = [name for name, one in named.items() if one.grad is None or not one.grad.any()]
    print(f"Gradients: {len(named) - len(without)} of {len(named)} weights get one")
    assert not without


def test_the_model_with_and_without():
    trained = TrainedRetriever.from_pretrained("tiny")
    model, words = trained.model, trained.tokenizer(["make it red"])
    torch.manual_seed(0)
    model.fusion = GatedFusionModule(model.backbone.vision_width, model.backbone.width).eval()
    pixels = torch.randn(1, 3, model.backbone.image_size, model.backbone.image_size)
    with torch.no_grad():
        gated, _ = model.encode_query(pixels, words)
        model.use_gated_fusion = False
        plain, _ = model.encode_query(pixels, words)
    gap = (gated - plain).abs().max().item()
    print(f"Model: the query with the fusion and the one without differ by up to {gap:.4f}")
    assert gap > 1e-4


if __name__ == "__main__":
    for check in [value for name, value in list(globals().items()) if name.startswith("test_")]:
        check()
    print("All checks passed.")
