"""Scales, layers and neck together, in front of the Q-Former."""

from dataclasses import replace

import pytest
import torch
from conftest import encode_triplets

from gatedcir.assemble.kept import checkpoint_of
from gatedcir.assemble.model import build, restore
from gatedcir.models.visual_fusion.fusion import VisualFusion
from gatedcir.models.visual_fusion.layers import LAYER_FUSIONS
from gatedcir.models.visual_fusion.necks import NECKS
from gatedcir.models.visual_fusion.scales import SCALE_FUSIONS
from gatedcir.options.config import BackboneConfig, Config, DataConfig, LossConfig
from gatedcir.options.model_config import GatedFusionConfig, ModelConfig
from gatedcir.training.losses import losses_of, total_loss

WIDTH = 16
SCALES = (0.5, 1.0, 1.5)


def levels(*, layers=1, scales=(1.0,), batch=2):
    """Maps of a 4 x 4 grid at scale 1.0, all layers of the first scale first."""
    generator = torch.Generator().manual_seed(0)
    sides = [round(4 * scale) for scale in scales for _ in range(layers)]
    return [torch.randn(batch, 1 + side * side, WIDTH, generator=generator) for side in sides]


KINDS = [
    *({"layer_fusion": name, "num_layers": 2} for name in LAYER_FUSIONS if name != "none"),
    *({"scale_fusion": name, "scales": SCALES} for name in SCALE_FUSIONS if name != "none"),
    *({"neck": name} for name in NECKS if name != "none"),
    {
        "layer_fusion": "dynamic",
        "num_layers": 2,
        "scale_fusion": "absi",
        "scales": SCALES,
        "neck": "unet",
    },
]


def inputs_of(kind):
    return levels(layers=kind.get("num_layers", 1), scales=kind.get("scales", (1.0,)))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_identity_start_is_the_main_map_and_the_seed_start_is_not(kind):
    torch.manual_seed(0)
    maps = inputs_of(kind)
    main = maps[kind.get("scales", (1.0,)).index(1.0) * kind.get("num_layers", 1)]
    assert torch.equal(VisualFusion(width=WIDTH, **kind)(maps)[0], main)
    fused, _ = VisualFusion(width=WIDTH, **kind, start="seed")(maps)
    assert fused.shape == main.shape
    assert not torch.allclose(fused, main, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_all_parameters_learn_after_the_gain_has(kind):
    torch.manual_seed(0)
    module = VisualFusion(width=WIDTH, **kind)
    torch.nn.init.constant_(module.fuse.gain, 0.5)
    fused, _ = module(inputs_of(kind))
    fused.square().sum().backward()
    silent = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent


def test_nothing_to_fuse_gives_the_map_itself():
    [only] = levels()
    fused, aux = VisualFusion(width=WIDTH)([only])
    assert fused is only
    assert not aux
    assert not list(VisualFusion(width=WIDTH).parameters())


def test_scales_are_fused_level_by_level_before_the_layers():
    maps = levels(layers=2, scales=SCALES)
    fusion = VisualFusion(
        width=WIDTH,
        num_layers=2,
        scales=SCALES,
        scale_fusion="mean",
        layer_fusion="mean",
        start="seed",
    )
    one = SCALE_FUSIONS["mean"](width=WIDTH, scales=SCALES)
    expected = (one(maps[0::2])[0] + one(maps[1::2])[0]) / 2
    torch.testing.assert_close(fusion(maps)[0], expected)


def test_weights_of_all_scales_and_layers_are_reported():
    torch.manual_seed(0)
    kind = {"num_layers": 2, "scales": SCALES, "scale_fusion": "absi", "layer_fusion": "dynamic"}
    _, aux = VisualFusion(width=WIDTH, **kind)(levels(layers=2, scales=SCALES))
    assert aux["scale_weights"].shape == (2, 2, 3)  # [B, N, S]
    assert aux["layer_weights"].shape == (2, 2)  # [B, N]
    assert aux["layer_gates"].shape == (2, 2, 17)  # [B, N, L]
    torch.testing.assert_close(aux["layer_weights"].sum(1), torch.ones(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": 2}, "layer_fusion is none"),
        ({"scales": (0.5, 1.0)}, "scale_fusion is none"),
        ({"layer_fusion": "mean"}, "layer_fusion is mean"),
        ({"scales": (0.5,), "scale_fusion": "mean"}, "hold 1.0"),
    ],
)
def test_stages_without_use_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VisualFusion(width=WIDTH, **settings)


def test_every_stage_at_the_width_of_vit_g():
    with torch.device("meta"):  # counted, not filled
        module = VisualFusion(
            width=1408,
            num_layers=2,
            scales=SCALES,
            scale_fusion="hierarchical",
            layer_fusion="dynamic",
            neck="pyramid-pooling",
        )
    sizes = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in module.fuse.module.named_children()
    }
    assert sizes["layer_fusion"] == 5_419_140
    width, hidden = 1408, 352
    attention = 2 * width * hidden + hidden + width + 2 * 7 * 7 + 1  # to channels, to places
    stage = (2 * width**2 + width) + (9 * width**2 + width) + attention
    assert sizes["scale_fusions"] == 2 * (2 * width + 2 * stage) == 91_217_676  # a layer each
    assert sizes["neck"] == 4 * (width + 1) * hidden + (2 * width + 1) * width == 5_950_208
    assert sum(p.numel() for p in module.parameters()) == sum(sizes.values()) + width


def config_of(**model):
    return Config(
        data=DataConfig("CIRR"),
        backbone=BackboneConfig("blip2_cir_align_prompt"),
        model=ModelConfig(**model),
    )


FULL = {
    "visual_layers": (-1, -4),
    "layer_fusion": "dynamic",
    "visual_scales": (0.5, 1.0),
    "scale_fusion": "hierarchical",
    "neck": "pyramid",
}


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 2, 3, 64, 64, generator=generator)
    return images[0], images[1], ["make it red", "a larger one"]


def test_the_whole_model_starts_as_the_plain_one_and_survives_a_checkpoint(batch):
    reference, target, texts = batch
    none = GatedFusionConfig(strategy="none")
    plain, tokenizer = build(config_of(gated_fusion=none))
    config = config_of(**FULL, gated_fusion=none)
    fused, _ = build(config)
    tokens = tokenizer(texts)
    plain.eval(), fused.eval()
    with torch.no_grad():
        assert torch.equal(
            fused.backbone.normalise(fused.levels(target)[2]), plain.visual_tokens(target)[0]
        )
        assert torch.equal(fused.encode_target(target), plain.encode_target(target))
        query, expected = (model.encode_query(reference, tokens)[0] for model in (fused, plain))
        assert torch.equal(query, expected)
        torch.nn.init.constant_(fused.visual_fusion.fuse.gain, 0.3)
        expected = fused.encode_query(reference, tokens)[0]
        saved = checkpoint_of(fused, tokenizer, config, epoch=1, metrics={}, provenance={})
        again, _, _ = restore(saved)
        assert torch.equal(again.encode_query(reference, tokens)[0], expected)
        levels = fused.levels(reference)
        assert fused.feature_bytes(torch.float32) == sum(level[0].nbytes for level in levels)


@pytest.mark.parametrize("alone", [True, False])
def test_a_single_scale_is_as_good_as_no_other(batch, alone):
    reference, target, texts = batch
    kinds = {} if alone else {"visual_layers": (-1, -4), "layer_fusion": "mean", "neck": "pyramid"}
    scaled = {**kinds, "visual_scales": (0.5, 1.0), "scale_fusion": "hierarchical"}
    plain, _ = build(config_of(**kinds))
    config = replace(config_of(**scaled), loss=LossConfig(loss_scale=1.0))
    model, tokenizer = build(config)
    model.load_state_dict(plain.state_dict(), strict=False)
    if not alone:
        names = {"layer_fusion", "neck"}
        for one, other in ((model, plain),):
            for name in names:
                part = getattr(other.visual_fusion.fuse.module, name)
                getattr(one.visual_fusion.fuse.module, name).load_state_dict(part.state_dict())
        for one in (model, plain):
            torch.nn.init.constant_(one.visual_fusion.fuse.gain, 0.3)
    else:
        torch.nn.init.constant_(model.visual_fusion.fuse.gain, 0.3)
    model.eval(), plain.eval()
    with torch.no_grad():
        cached = model.levels(target)  # of all scales
        model.single_scale = True
        expected = plain.encode_target(target)
        assert torch.equal(model.encode_target(target), expected)
        assert torch.equal(model.encode_target(cached), expected)
        found = encode_triplets(model, reference, target, tokenizer(texts))
        assert list(found.by_scale) == [1.0]
        assert (
            losses_of(found, torch.arange(2), model.temp, consistent=True)["loss_consistency"] == 0
        )
        model.single_scale = False
        assert not torch.equal(model.encode_target(target), expected)


@pytest.mark.parametrize("name", [name for name in SCALE_FUSIONS if name != "none"])
def test_scales_that_an_image_does_not_need_are_not_read(batch, name, monkeypatch):
    reference, target, _ = batch
    images = torch.cat([reference, target])
    scaled = {"visual_scales": (0.5, 1.0, 1.5), "scale_fusion": name}
    config = config_of(**scaled, visual_layers=(-1, -4), layer_fusion="mean", adaptive_scales=True)
    model, tokenizer = build(config)
    plain, _ = build(config_of(**scaled, visual_layers=(-1, -4), layer_fusion="mean"))
    plain.load_state_dict(model.state_dict(), strict=False)
    for one in (model.eval(), plain.eval()):
        torch.nn.init.constant_(one.visual_fusion.fuse.gain, 0.3)
    read = []
    own = model.backbone.vision_levels

    def recorded(pixels, layers, *, scale):
        read.append((scale, len(pixels)))
        return own(pixels, layers, scale=scale)

    monkeypatch.setattr(model.backbone, "vision_levels", recorded)
    with torch.no_grad():
        # At first each image needs all scales, and nothing differs.
        everything = model.levels(images)
        assert model.scales_needed(everything).all()
        torch.testing.assert_close(model.encode_target(everything), plain.encode_target(images))
        # The half is not needed, and the large scale by two images that differ in a channel.
        importance = model.visual_fusion.stages.selector.layers[2]
        main = model.normalised_levels(everything)[2][:, 1:].mean(1)  # [B, Dv]
        channel = main.std(0).argmax()
        importance.weight[2, channel] = 1.0
        importance.bias.copy_(torch.tensor([-1.0, -1.0, -main[:, channel].median()]) - 1e-6)
        needed = model.scales_needed(everything)
        assert needed.sum(0).tolist() == [0, 4, 2]
        read.clear()
        some = model.levels(images, chosen=True)
        assert read == [(1.0, 4), (1.5, 2)]
        assert torch.equal(model.scales_needed(some), needed)
        torch.testing.assert_close(model.encode_target(some), model.encode_target(everything))
        assert not torch.equal(model.encode_target(everything), plain.encode_target(images))
        assert model.visual_tokens(everything)[1]["scales_used"] == 1.5
    saved = checkpoint_of(model, tokenizer, config, epoch=1, metrics={}, provenance={})
    again, _, _ = restore(saved)
    with torch.no_grad():
        torch.testing.assert_close(again.encode_target(images), model.encode_target(everything))


def test_the_choice_of_scales_learns(batch):
    reference, target, texts = batch
    scaled = {"visual_scales": (0.5, 1.0), "scale_fusion": "mean", "adaptive_scales": True}
    model, tokenizer = build(config_of(**scaled))
    torch.nn.init.constant_(model.visual_fusion.fuse.gain, 0.3)
    found = encode_triplets(model, reference, target, tokenizer(texts))
    losses_of(found, torch.arange(2), model.temp)["loss_itc"].backward()
    gradient = model.visual_fusion.stages.selector.layers[2].weight.grad
    assert gradient[0].any() and not gradient[1].any()  # 1.0 always stays


SEVERAL = {"visual_layers": (-1, -4)}


@pytest.mark.parametrize(
    "model",
    [
        *({**SEVERAL, "layer_fusion": name} for name in LAYER_FUSIONS if name != "none"),
        {**SEVERAL, "layer_fusion": "fixed-sum", "layer_weights": (0.7, 0.3)},
        {**SEVERAL, "layer_fusion": "concat", "reduced_width": 8},
        *(
            {"visual_scales": (0.5, 1.0), "scale_fusion": name}
            for name in SCALE_FUSIONS
            if name != "none"
        ),
        *({"neck": name} for name in NECKS if name != "none"),
        {"neck": "pyramid", "neck_args": ("num_levels=2",)},
        {"neck": "multi-scale", "neck_args": ("scales=1,0.5",)},
    ],
    ids=str,
)
def test_every_kind_comes_back_from_its_checkpoint(batch, model):
    _, target, _ = batch
    config = config_of(**model)
    fused, tokenizer = build(config)
    fused.eval()
    torch.nn.init.constant_(fused.visual_fusion.fuse.gain, 0.3)
    saved = checkpoint_of(fused, tokenizer, config, epoch=1, metrics={}, provenance={})
    again, _, found = restore(saved)
    assert found == config
    with torch.no_grad():
        assert torch.equal(again.encode_target(target), fused.encode_target(target))


def test_each_scale_is_contrasted_with_its_weight(batch):
    reference, target, texts = batch
    config = replace(config_of(**FULL), loss=LossConfig(loss_scale=0.7))
    model, tokenizer = build(config)
    model.eval()
    found = encode_triplets(model, reference, target, tokenizer(texts))
    ids = torch.arange(2)
    losses = losses_of(found, ids, model.temp)
    expected = 0
    for scale, weight in ((0.5, 0.5), (1.0, 1.0)):
        query, targets = found.by_scale[scale]
        logits = torch.einsum("be,gqe->bgq", query, targets).amax(-1) / model.temp
        expected += weight * torch.nn.functional.cross_entropy(logits, ids)
    torch.testing.assert_close(losses["loss_scale"], expected)
    without = total_loss({n: v for n, v in losses.items() if n != "loss_scale"}, config.loss)
    torch.testing.assert_close(total_loss(losses, config.loss), without + 0.7 * expected)


def test_each_scale_may_have_its_own_weight(batch):
    reference, target, texts = batch
    config = replace(config_of(**FULL), loss=LossConfig(loss_scale=(0.2, 0.9), loss_consistency=2))
    model, tokenizer = build(config)
    model.eval()
    found = encode_triplets(model, reference, target, tokenizer(texts))
    ids = torch.arange(2)
    losses = losses_of(found, ids, model.temp, scale_weights={0.5: 0.2, 1.0: 0.9}, consistent=True)
    scores = {
        scale: torch.einsum("be,gqe->bgq", *pair).amax(-1) for scale, pair in found.by_scale.items()
    }
    each = {
        scale: torch.nn.functional.cross_entropy(one / model.temp, ids)
        for scale, one in scores.items()
    }
    torch.testing.assert_close(losses["loss_scale"], 0.2 * each[0.5] + 0.9 * each[1.0])
    gap = (scores[0.5] - scores[1.0]).abs().mean()
    assert gap > 0
    torch.testing.assert_close(losses["loss_consistency"], gap)
    plain = total_loss({n: losses[n] for n in list(losses)[:3]}, LossConfig())
    expected = plain + losses["loss_scale"] + 2 * gap
    torch.testing.assert_close(total_loss(losses, config.loss), expected)
    # One number is half of it for the other scales.
    halves = losses_of(found, ids, model.temp, scale_weights={0.5: 0.5, 1.0: 1.0})
    assert torch.equal(halves["loss_scale"], losses_of(found, ids, model.temp)["loss_scale"])


def test_an_image_at_scale_one_is_read_as_it_is(batch):
    model, _ = build(config_of())
    backbone, image = model.backbone, batch[0]
    assert torch.equal(
        backbone.vision_levels(image, (-1,), scale=1.0)[0], backbone.vision_levels(image, (-1,))[0]
    )
    assert [backbone.token_count(scale) for scale in (0.5, 1.0, 1.5)] == [17, 65, 145]
    half = backbone.vision_levels(image, (-1, -4), scale=0.5)
    assert [level.shape for level in half] == [(2, 17, 128)] * 2
