"""Names and sizes: there and back, the published lists, CLIP's tower."""

import json
from pathlib import Path

import pytest
import torch
from published_model import FIXTURES, golden_config, golden_weights
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModel

from gatedcir.models.backbone import Backbone
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.weights.names import from_sprc, list_names, to_lavis, to_sprc, without_dropped
from gatedcir.models.weights.sizes import VIT_G, VIT_L, infer_config

CLIP_TOWER = {
    **VIT_L["vision_config"],
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name].dtype == weight.dtype, name
        assert torch.equal(found[name], weight), name


def shapes(weights):
    return {name: list(weight.shape) for name, weight in weights.items()}


def clip_model():
    """A small model with CLIP's tower, all of its weights different."""
    torch.manual_seed(0)
    model = ComposedRetriever(
        Backbone.from_config({**golden_config(), "vision_config": CLIP_TOWER})
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("file", ["sprc_tiny", "sprc_tiny_after8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_published_names_there_and_back(file, dtype):
    published = {n: w.to(dtype) for n, w in without_dropped(golden_weights(file)).items()}
    ours = from_sprc(published)
    same(to_sprc(ours), published)
    same(from_sprc(to_sprc(ours)), ours)
    assert len(ours) < len(published)  # query and value biases were joined


def test_lavis_names_are_those_without_prompts():
    published = without_dropped(golden_weights())
    ours = from_sprc(published)
    prompts = ours.pop("prompt_tokens")
    same(to_lavis({**ours, "prompt_tokens": prompts}), {**to_sprc(ours)})
    same(from_sprc(to_lavis(ours)), ours)
    assert "prompt_tokens" not in to_lavis({**ours, "prompt_tokens": prompts})


def test_clip_names_there_and_back():
    ours = clip_model().state_dict()
    theirs = to_sprc(ours)
    same(from_sprc(theirs), ours)
    prefix = "visual_encoder.transformer.resblocks.0."
    assert theirs["visual_encoder.class_embedding"].shape == (48,)
    assert theirs["visual_encoder.positional_embedding"].shape == (17, 48)
    assert theirs[prefix + "attn.in_proj_bias"].shape == (144,)
    assert prefix + "mlp.c_proj.weight" in theirs and "visual_encoder.ln_pre.bias" in theirs
    assert "visual_encoder.conv1.bias" not in theirs


def test_a_fusion_has_no_published_name():
    with pytest.raises(ValueError, match=r"fusion\.alpha"):
        to_sprc({"fusion.alpha": torch.ones(())})


def test_the_list_of_names_is_short():
    found = list_names({"missing": [f"w{i}" for i in range(12)], "unexpected": []})
    assert found == f"12 missing ({', '.join(f'w{i}' for i in range(10))}, ...)"


def test_sizes_are_read_off_shapes():
    weights = golden_weights()
    with pytest.raises(ValueError, match="48 wide"):
        infer_config(weights)  # nobody can tell the heads of this one
    for size in (VIT_G, VIT_L):
        model = ComposedRetriever(Backbone.without_weights(size))
        assert Backbone.without_weights(
            infer_config(to_sprc(model.state_dict()))
        ).config.to_dict() == (model.backbone.config.to_dict())


def test_the_coco_weights_are_read_as_364_pixels():
    weights = to_sprc(ComposedRetriever(Backbone.without_weights(VIT_G)).state_dict())
    weights["visual_encoder.pos_embed"] = torch.empty(1, 26 * 26 + 1, 1408, device="meta")
    assert infer_config(weights)["vision_config"]["image_size"] == 364


@pytest.mark.parametrize(("name", "size"), [("g", VIT_G), ("L", VIT_L)])
def test_names_and_shapes_equal_those_of_lavis(name, size):
    published = json.loads((FIXTURES / f"lavis_vit_{name}.json").read_text())
    listed = {n: torch.empty(shape, device="meta") for n, shape in published.items()}
    model = ComposedRetriever(Backbone.without_weights(size))
    assert shapes(to_lavis(model.state_dict())) == shapes(without_dropped(listed))
    assert Backbone.without_weights(infer_config(listed)).config.to_dict() == (
        model.backbone.config.to_dict()
    )


def test_clip_tower_equals_transformers_clip():
    torch.manual_seed(0)
    # Activation and epsilon are left to transformers: they are CLIP's own.
    ours_only = ("hidden_act", "layer_norm_eps", "pre_layernorm")
    sizes = {key: value for key, value in CLIP_TOWER.items() if key not in ours_only}
    clip = CLIPVisionModel(CLIPVisionConfig(**sizes)).eval()
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    source = {n.removeprefix("vision_model."): w for n, w in clip.state_dict().items()}
    parts = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}
    parts |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    lavis = {
        "class_embedding": source["embeddings.class_embedding"],
        "positional_embedding": source["embeddings.position_embedding.weight"],
        "conv1.weight": source["embeddings.patch_embedding.weight"],
        "ln_pre.weight": source["pre_layrnorm.weight"],
        "ln_pre.bias": source["pre_layrnorm.bias"],
    }
    for block in range(3):
        old, new = f"encoder.layers.{block}.", f"transformer.resblocks.{block}."
        for kind in ("weight", "bias"):
            joined = [source[f"{old}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            lavis[f"{new}attn.in_proj_{kind}"] = torch.cat(joined)
            for theirs, ours in parts.items():
                lavis[f"{new}{ours}.{kind}"] = source[f"{old}{theirs}.{kind}"]
    model = clip_model().eval()
    state = to_sprc(model.state_dict())
    state |= {f"visual_encoder.{name}": weight for name, weight in lavis.items()}
    model.load_state_dict(from_sprc(state), strict=True)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = clip(pixels, output_hidden_states=True).hidden_states
        found = model.backbone.vision_levels(pixels, (0, 1, 2))
    for ours, theirs in zip(found, expected[1:], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_clip_tower_freezes_and_survives_saving(tmp_path):
    backbone = clip_model().backbone
    backbone.set_trainable(vision=False)
    assert not backbone.vision_model.pre_layernorm.weight.requires_grad
    assert backbone.vision_model.post_layernorm.weight.requires_grad
    backbone.save_pretrained(tmp_path, dtype=torch.float32)
    found, wrong = Backbone.from_pretrained(str(tmp_path))
    assert not list_names(wrong)
    same(found.state_dict(), backbone.state_dict())
    written = load_file(Path(tmp_path) / "model.safetensors")
    assert "vision_model.pre_layernorm.weight" in written
