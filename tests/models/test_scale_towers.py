"""A vision tower for each scale: read, trained, kept, opened again."""

import shutil

import pandas as pd
import pytest
import torch
from conftest import SHORT, bad

import blip_fine_tune_2
from gatedcir.assemble.data import keeping, load_data, make_pixels
from gatedcir.assemble.evaluator import place
from gatedcir.assemble.kept import checkpoint_of
from gatedcir.assemble.model import build, restore
from gatedcir.device import CPU
from gatedcir.features.cache import feature_folder
from gatedcir.models.backbone import Backbone
from gatedcir.models.weights.locations import TINY
from gatedcir.models.weights.tower import towers_in
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse
from gatedcir.pretrained import TrainedRetriever
from gatedcir.run_folder import checkpoint
from gatedcir.training.optim import parameter_groups
from gatedcir.training.trainer import Trainer

SCALES = "--model.visual-scales 0.5 1.0 1.5 --model.visual-layers -1 -2".split()
FUSED = "--model.scale-fusion absi --model.layer-fusion dynamic --model.visual-start seed".split()
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 48,
    "patch_size": 12,
}
QFORMER = {
    "vocab_size": 412,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "encoder_hidden_size": 32,
    "use_qformer_text_input": True,
}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Weights whose tower is 32 wide, for images of 48 pixels in patches of 12."""
    folder = tmp_path_factory.mktemp("narrow")
    config = {"vision_config": VISION, "qformer_config": QFORMER, "image_text_hidden_size": 16}
    backbone = Backbone.with_random_weights(config, seed=1)
    backbone.save_pretrained(folder, dtype=torch.float32)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder)
    return folder


def config_of(*flags):
    more = [*SCALES, *FUSED, *map(str, flags)]
    return parse(Config, ["--dataset", "CIRR", *SHORT, *more], description="")


@pytest.fixture(scope="module")
def towers(narrow):
    config = config_of("--model.scale-backbones", narrow, "tiny", narrow)
    model, tokenizer = build(config)
    return model.eval(), tokenizer, config


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_the_same_tower_for_all_scales_is_no_other_model(pixels):
    plain, _ = build(config_of())
    same, _ = build(config_of("--model.scale-backbones", "tiny", "same", "tiny"))
    assert plain.state_dict().keys() == same.state_dict().keys()
    with torch.no_grad():
        expected = plain.eval().encode_target(pixels)
        assert torch.equal(same.eval().encode_target(pixels), expected)


def test_each_scale_is_read_by_its_tower(towers, narrow, pixels):
    model, _, _ = towers
    own = Backbone.from_pretrained(str(narrow))[0]
    with torch.no_grad():
        levels = model.levels(pixels)
        # Half of 64 pixels is nearest to three patches of 12, one and a half times to eight.
        shapes = [(1 + 9, 32)] * 2 + [(1 + 64, 128)] * 2 + [(1 + 64, 32)] * 2
        assert model.level_shapes() == shapes
        assert [level.shape[1:] for level in levels] == shapes
        assert torch.equal(levels[0], own.vision_levels(pixels, (-1,), scale=0.5)[0])
        assert torch.equal(levels[2], model.backbone.vision_levels(pixels, (-1,))[0])
        size = sum(level[0].nbytes for level in levels)
        assert model.feature_bytes(torch.float32) == size
        assert torch.equal(model.encode_target(levels), model.encode_target(pixels))
        normalised = model.normalised_levels(pixels)
    assert [level.shape[-1] for level in normalised] == [128] * 6
    expected = model.scale_towers.projections[0](own.normalise(levels[5]))
    torch.testing.assert_close(normalised[5], expected)
    # Two scales share one tower, and only its last LayerNorm and the projection are trained.
    assert len(model.towers) == 2
    trained = {n for n, p in model.scale_towers.named_parameters() if p.requires_grad}
    assert trained == {
        *("towers.0.vision_model.post_layernorm.weight", "projections.0.weight"),
        *("towers.0.vision_model.post_layernorm.bias", "projections.0.bias"),
    }


def test_only_the_projection_learns_at_the_rate_of_the_fusions(towers):
    model, _, _ = towers
    options = parse(Config, ["--dataset", "CIRR", "--fusion-rate", "10"], description="").optim
    rates = {p: group["lr"] for group in parameter_groups(model, options) for p in group["params"]}
    others = model.scale_towers
    assert rates[others.projections[0].weight] == 10 * options.learning_rate
    norm = others.towers[0].vision_model.post_layernorm
    assert rates[norm.weight] == options.learning_rate


@pytest.mark.parametrize("warm_up", [False, True])
def test_all_weights_that_are_trained_have_a_gradient(towers, narrow, pixels, warm_up):
    flags = ("--model.scale-backbones", "tiny", narrow, narrow, "--train-vision")
    model, _ = build(config_of(*flags))
    model.single_scale = warm_up
    model.encode_target(pixels).square().sum().backward()
    for part in (model.backbone.vision_model, model.scale_towers):
        learned = dict(part.named_parameters())
        reached = {n for n, p in learned.items() if p.grad is not None}
        assert reached == {n for n, p in learned.items() if p.requires_grad}
    only, _ = build(config_of("--model.scale-backbones", narrow, narrow, narrow))
    assert not any(p.requires_grad for p in only.backbone.vision_model.parameters())
    assert towers[0].backbone.vision_model.post_layernorm.weight.requires_grad


def test_a_checkpoint_holds_the_towers(towers, pixels, tmp_path):
    model, tokenizer, config = towers
    saved = checkpoint_of(model, tokenizer, config, epoch=1, metrics={}, provenance={})
    with torch.no_grad():
        expected = model.encode_target(pixels)
        again, _, same = restore(saved)
        assert torch.equal(again.encode_target(pixels), expected)
        assert same.model.scale_backbones == config.model.scale_backbones
        TrainedRetriever(model, tokenizer, config).save_pretrained(tmp_path / "hub")
        hub = TrainedRetriever.from_pretrained(tmp_path / "hub")
        assert torch.equal(hub.model.encode_target(pixels), expected)
    assert hub.config.model.scale_backbones == ("narrow0", "tiny", "narrow0")
    # As a start of another run, it gives what fits. The towers come from their names.
    config = config_of("--backbone", tmp_path / "hub")
    fresh, tokenizer = build(config)
    assert not fresh.scale_towers.places
    saved = checkpoint_of(fresh, tokenizer, config, epoch=1, metrics={}, provenance={})
    assert not restore(saved)[0].scale_towers.places


def test_scales_that_are_not_needed_are_not_read(narrow, pixels):
    config = config_of("--model.scale-backbones", narrow, "tiny", narrow, "--model.adaptive-scales")
    model, _ = build(config)
    model.eval()
    torch.nn.init.constant_(model.visual_fusion.stages.selector.layers[2].bias, -1.0)
    with torch.no_grad():
        some = model.levels(pixels, chosen=True)
        assert [level.shape[1:] for level in some] == model.level_shapes()
        assert not some[0].any() and not some[4].any() and some[2].any()
        whole = model.encode_target(model.levels(pixels))
        torch.testing.assert_close(model.encode_target(some), whole)


def test_half_precision_halves_all_towers(narrow, pixels):
    names = ("--model.scale-backbones", narrow, "tiny", narrow)
    config = config_of(*names, "--mixed-precision", "bf16")
    model, _ = build(config)
    place(model.eval(), torch.device("cpu"), config)
    types = {p.dtype for t in model.towers for p in t.vision_model.encoder.parameters()}
    assert types == {torch.bfloat16}
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.encode_target(pixels).isfinite().all()


def table(run):
    rows = pd.read_csv(run / "train_metrics.csv")
    return rows.drop(columns=["triplets_per_second", "peak_memory_gib"], errors="ignore")


def test_a_run_is_resumed_from_kept_features(home, narrow, tmp_path, monkeypatch):
    data = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT, *SCALES]
    names = ["--model.scale-backbones", str(narrow), "tiny", str(narrow)]
    flags = [*data, *FUSED, *names, "--num-epochs", "2", "--learning-rate", "1e-3"]
    kept = ["--cache-features", str(tmp_path / "features"), "--save-training"]
    flags += ["--scale-warmup-epochs", "1", *kept]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    blip_fine_tune_2.main([*flags, "--output", str(whole)])
    train_epoch = Trainer.train_epoch

    def cut_off(self, epoch, saving):
        if epoch == 1:
            raise KeyboardInterrupt
        return train_epoch(self, epoch, saving)

    with monkeypatch.context() as patched, pytest.raises((KeyboardInterrupt, SystemExit)):
        patched.setattr(Trainer, "train_epoch", cut_off)
        blip_fine_tune_2.main([*flags, "--output", str(cut)])
    blip_fine_tune_2.main(["--resume", str(cut), *flags])
    pd.testing.assert_frame_equal(table(cut), table(whole))
    saved = checkpoint.load(cut)
    assert not towers_in(saved.weights)
    assert [note["sources"] for note in saved.towers.values()] == [["tiny"], [str(narrow), "tiny"]]
    again, one = restore(saved)[0].state_dict(), restore(checkpoint.load(whole))[0].state_dict()
    assert all(torch.equal(weight, one[name]) for name, weight in again.items())
    config = parse(Config, flags, description="")
    [train] = load_data(config.data, "train")
    places = []
    for other in (names, ["--model.scale-backbones", str(narrow), "tiny", "tiny"]):
        config = parse(Config, [*flags, *other], description="")
        model, _ = build(config)
        source = make_pixels(config, model, train)
        places.append(feature_folder(keeping(config, CPU), model, source))
    assert places[0].path != places[1].path
    assert not places[0].missing(make_pixels(config, model, train).paths)


def test_wrong_names_and_counts_are_told(home, narrow, tmp_path):
    data = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset", *SHORT]
    data += [*SCALES, *FUSED, "--output", tmp_path / "run"]

    def told(*names, words):
        bad(blip_fine_tune_2, [*data, "--model.scale-backbones", *names], *words)
        assert not (tmp_path / "run").exists()

    told("tiny", "tiny", words=("2 names for --model.visual-scales 0.5 1.0 1.5", "one a scale"))
    told("tiny", "nowhere", "tiny", words=("--model.scale-backbones nowhere", "no weights"))
    deep = [*data, "--model.visual-layers", "-1", "-5", "--model.scale-backbones"]
    bad(blip_fine_tune_2, [*deep, "tiny", "tiny", narrow], "3 blocks", "--model.visual-layers")
    one = ["--dataset", "CIRR", *SHORT, "--model.scale-backbones", "tiny"]
    bad(blip_fine_tune_2, one, "one scale only", "--backbone")
