"""Training: exact resume, equal paths."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import SHORT

import blip_fine_tune_2
import gatedcir.training.loop
import gatedcir.training.trainer
from gatedcir.assemble import data
from gatedcir.assemble.data import load_data, make_source
from gatedcir.assemble.evaluator import make_evaluator
from gatedcir.assemble.model import build, restore
from gatedcir.data.batches import TripletDataset
from gatedcir.data.sources import FeatureSource, PixelSource
from gatedcir.data.triplets import evaluation_text
from gatedcir.errors import UserError
from gatedcir.models.weights.tower import without_towers
from gatedcir.options.changes import changed_flags
from gatedcir.options.command_line import options_of
from gatedcir.options.config import Config, DataConfig
from gatedcir.options.parsing import parse, to_dict
from gatedcir.run_folder import checkpoint
from gatedcir.training.optim import parameter_groups


def config_of(home, *flags) -> Config:
    data = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset")]
    return parse(Config, [*data, *SHORT, *map(str, flags)], description="")


def weights_of(run: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    return checkpoint.load(run / "checkpoints" / name).weights


@pytest.mark.parametrize(
    ("where", "kept"), [("trainer._seed_epoch", 1), ("loop.validate_epoch", 2)]
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    home, cirr_run, tmp_path, monkeypatch, where, kept
):
    run = tmp_path / "run"
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    flags += ["--num-epochs", "2", "--learning-rate", "1e-3", "--save-training", "--save-best"]
    calls = []

    def killed_in_the_second_epoch(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return called(*args)

    module, name = where.split(".")
    place = getattr(gatedcir.training, module)
    called = getattr(place, name)
    monkeypatch.setattr(place, name, killed_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        blip_fine_tune_2.main([*flags, "--output", str(run)])
    monkeypatch.undo()
    assert checkpoint.load(run / "checkpoints" / "last.pt").epoch == kept
    blip_fine_tune_2.main(["--resume", str(run)])

    for file in ("last.pt", "best.pt"):
        expected, found = weights_of(cirr_run, file), weights_of(run, file)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    for table in ("train_metrics.csv", "validation_metrics.csv", "train_steps.csv"):
        drop = {"triplets_per_second", "peak_memory_gib"}  # of the machine, not of the training
        one, two = (pd.read_csv(folder / table) for folder in (cirr_run, run))
        columns = [c for c in one.columns if c not in drop]
        pd.testing.assert_frame_equal(one[columns], two[columns])


def test_resuming_without_a_state_is_refused(cirr_run, tmp_path):
    shutil.copytree(cirr_run, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    shutil.copy(folder / "best.pt", folder / "last.pt")  # best.pt holds the model only
    with pytest.raises(UserError, match="--save-training"):
        blip_fine_tune_2.main(["--resume", str(tmp_path / "run")])


def test_resuming_without_checkpoints_is_refused_without_naming_other_files(cirr_run, tmp_path):
    shutil.copytree(cirr_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(UserError, match=r"run holds no training state.*--save-training"):
        blip_fine_tune_2.main(["--resume", str(tmp_path / "run")])


@pytest.fixture
def broken(home, tmp_path):
    """A CIRR folder of which `broken(split)` damages one image that is used, and names it."""
    folder = tmp_path / "cirr_dataset"
    shutil.copytree(home / "cirr_dataset", folder)

    def damage(split: str) -> tuple[Path, str]:
        [[part]] = load_data(DataConfig("CIRR", folder), split)
        path = part.paths[part.triplets[0].reference]
        path.write_bytes(b"no image")
        return folder, path.name

    return damage


def flags_of_a_run(folder, run):
    flags = ["--dataset", "CIRR", "--data-path", str(folder), *SHORT, "--num-epochs", "2"]
    return [*flags, "--cache-features", "none", "--save-training", "--output", str(run)]


def test_a_broken_image_of_the_first_epoch_leaves_no_run(broken, tmp_path):
    folder, name = broken("train")
    run = tmp_path / "run"
    for _ in range(2):  # the second time nothing stands in the way
        with pytest.raises(UserError, match=name):
            blip_fine_tune_2.main(flags_of_a_run(folder, run))
        assert not run.exists()
    run.mkdir()
    (run / "notes.txt").write_text("the user's")
    with pytest.raises(UserError, match=r"is no run, as it holds .notes\.txt.;"):
        blip_fine_tune_2.main(flags_of_a_run(folder, run))
    assert [path.name for path in run.iterdir()] == ["notes.txt"]


def test_an_image_that_breaks_before_the_validation_does_not_cost_the_epoch(
    broken, home, tmp_path, monkeypatch
):
    monkeypatch.setattr(data, "refuse_unreadable", lambda *_, **__: None)  # still whole then
    folder, name = broken("val")
    run = tmp_path / "run"
    with pytest.raises(UserError, match=name):
        blip_fine_tune_2.main(flags_of_a_run(folder, run))
    assert checkpoint.load(run / "checkpoints" / "last.pt").epoch == 1
    original = str(home / "cirr_dataset")
    blip_fine_tune_2.main(["--resume", str(run), "--data-path", original])
    for table in ("train_metrics.csv", "validation_metrics.csv"):
        assert pd.read_csv(run / table)["epoch"].tolist() == [0, 1]


def test_provenance_tells_the_precision(cirr_run):
    assert checkpoint.load(cirr_run).provenance["precision"] == "float32"


def test_an_option_that_is_newer_than_a_run_does_not_stop_it():
    now = to_dict(parse(Config, ["--dataset", "CIRR"], description=""))
    before = {name: value for name, value in now.items() if name != "draft"}
    assert list(changed_flags(before, now)) == []
    assert list(changed_flags(before, {**now, "draft": True})) == ["draft"]
    assert list(changed_flags({**now, "draft": True}, now)) == ["draft"]
    # Nor does one whose default is a value.
    before = {name: value for name, value in now.items() if name != "gallery"}
    assert list(changed_flags(before, now)) == []
    assert list(changed_flags(before, {**now, "gallery": "all"})) == ["gallery"]


def test_an_option_with_a_new_name_is_the_same_option():
    now = to_dict(parse(Config, ["--dataset", "CIRR", "--skip-unreadable"], description=""))
    before = {name: value for name, value in now.items() if name != "skip-unreadable"}
    assert list(changed_flags({**before, "skip-missing": True}, now)) == []
    assert list(changed_flags({**before, "skip-missing": False}, now)) == ["skip-unreadable"]
    assert parse(Config, ["--dataset", "CIRR", "--skip-missing"], description="") == parse(
        Config, ["--dataset", "CIRR", "--skip-unreadable"], description=""
    )


def test_an_option_of_a_group_with_a_new_name_is_the_same_option():
    flags = ["--dataset", "CIRR", "--model.visual-layers", "-1", "-4"]
    now = to_dict(parse(Config, [*flags, "--model.layer-fusion", "mean"], description=""))
    model = dict(now["model"])
    assert model.pop("layer-fusion") == "mean"
    before = {**now, "model": {**model, "visual-fusion": "mean"}}
    assert list(changed_flags(before, now)) == []
    before["model"]["visual-fusion"] = "dynamic"
    assert list(changed_flags(before, now)) == ["model.layer-fusion"]


def test_what_may_change_when_a_run_goes_on_is_marked():
    free = {option.flag for option in options_of(Config) if option.free_on_resume}
    named = "output resume device validation-frequency save save-training save-best save-tower "
    named += "save-every-minutes save-every-steps save-memory cache-features cache-device compile "
    named += "dry-run data-path num-workers log-every gradient-checkpointing scales-sequential "
    named += "tracker on-nan backbone"
    assert free == {f"--{name}" for name in named.split()}


def test_resuming_another_training_is_refused(cirr_run):
    with pytest.raises(UserError, match=r"--model\.gated-fusion\.strategy"):
        blip_fine_tune_2.main(["--resume", str(cirr_run), "--model.gated-fusion.strategy", "none"])
    with pytest.raises(UserError, match="--batch-size"):
        blip_fine_tune_2.main(["--resume", str(cirr_run), "--batch-size", "8"])
    before = (cirr_run / "train_metrics.csv").read_bytes()
    blip_fine_tune_2.main(["--resume", str(cirr_run), "--num-workers", "1"])  # nothing left to do
    assert (cirr_run / "train_metrics.csv").read_bytes() == before


def test_resuming_an_optimiser_with_other_groups_is_refused(cirr_run, tmp_path):
    run = shutil.copytree(cirr_run, tmp_path / "run")
    file = run / "checkpoints" / "last.pt"
    saved = checkpoint.load(file)
    saved.trainer["optimizer"]["param_groups"].pop()
    checkpoint.save(file, replace(saved, epoch=1))
    with pytest.raises(UserError, match="groups the weights in another way"):
        blip_fine_tune_2.main(["--resume", str(run)])


def test_a_folder_that_may_not_be_written_is_refused_before_training(home, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda place, mode: False)  # a superuser may write anywhere
    monkeypatch.setattr(gatedcir.training.trainer.Trainer, "train_epoch", None)
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    with pytest.raises(UserError, match="--output runs may not be written"):
        blip_fine_tune_2.main(flags)
    with pytest.raises(UserError, match=f"--output .*run may not be written: {tmp_path}"):
        blip_fine_tune_2.main([*flags, "--output", str(tmp_path / "a" / "run")])


def test_a_run_is_not_overwritten(home, cirr_run):
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    with pytest.raises(UserError, match="--resume"):
        blip_fine_tune_2.main([*flags, "--output", str(cirr_run)])


def test_a_checkpoint_carries_all_that_evaluation_needs(cirr_run):
    saved = checkpoint.load(cirr_run)
    model, tokenizer, config = restore(saved)
    weights = model.state_dict()
    assert all(torch.equal(weights[n], w) for n, w in saved.weights.items())
    assert weights.keys() - saved.weights.keys() == weights.keys() - without_towers(weights).keys()
    assert config.model.gated_fusion.strategy == "gated"
    built, noted = torch.__version__, saved.provenance["versions"]["torch"]
    assert noted in (built, built.partition("+")[0])  # PyPI's packages have no "+cu130"
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    assert saved.provenance["parameters"] == sum(size for size, _ in sizes)
    assert saved.provenance["trainable_parameters"] == sum(size for size, learns in sizes if learns)
    assert saved.metrics["recall_at50"] > 0
    _, original = build(config)
    texts = ["make the red circle blue", "zyzzyva!"]
    assert torch.equal(tokenizer(texts).input_ids, original(texts).input_ids)
    assert 1 not in tokenizer(texts).input_ids  # any word is spelled out, none is unknown


def test_training_and_evaluation_encode_alike_with_and_without_cache(home):
    config = config_of(home)
    [[split]] = load_data(config.data, "val")
    model, tokenizer = build(config)
    model.eval()
    cached = make_source(config, model, [split])
    live = make_source(config_of(home, "--cache-features", "none"), model, [split])
    assert isinstance(cached, FeatureSource) and isinstance(live, PixelSource)
    triplets = split.triplets[:4]
    features = []
    for source in (cached, live):
        dataset = TripletDataset(triplets, source, seed=0)
        batch = dataset[list(range(4))]
        texts = tokenizer([evaluation_text(t.captions) for t in triplets])
        with torch.no_grad():
            found = model(batch.images, batch.references, batch.targets, texts)
        evaluator = make_evaluator(config, model, tokenizer, source)
        index, queries = evaluator.encode(split)
        places = [split.gallery.index(t.target) for t in triplets]
        features.append((found, queries[:4], index, places))
    for found, queries, index, places in features:
        torch.testing.assert_close(found.query, queries, atol=1e-6, rtol=0)
        expected = torch.einsum("be,bqe->bq", found.query, found.targets).amax(1)
        similarity = index.similarity(queries, torch.tensor(places)[:, None].numpy())
        torch.testing.assert_close(torch.tensor(similarity[:, 0]), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(features[0][1], features[1][1], atol=1e-6, rtol=0)


def test_train_vision_reaches_the_tower_and_does_not_cache(home):
    config = config_of(home, "--train-vision")
    model, _ = build(config)
    tower = model.backbone.vision_model.encoder.layers[0].mlp.fc1.weight
    assert tower.requires_grad
    frozen, _ = build(config_of(home))
    assert not frozen.backbone.vision_model.encoder.layers[0].mlp.fc1.weight.requires_grad
    [splits] = load_data(config.data, "val")
    assert isinstance(make_source(config, model, splits), PixelSource)


def test_only_matrices_decay_and_fusions_have_their_own_rate(home):
    visual = ["--model.visual-layers", "-1", "-2", "--model.layer-fusion", "dynamic"]
    config = config_of(home, "--learning-rate", 1e-4, "--fusion-rate", 10, *visual)
    model, _ = build(config)
    settings = {
        id(parameter): (group["weight_decay"], group["lr"])
        for group in parameter_groups(model, config.optim)
        for parameter in group["params"]
    }
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert settings.keys() == {id(p) for p in named.values()}
    whole = {"temp", "prompt_tokens", "backbone.query_tokens", "fusion.alpha"}
    assert whole < named.keys()
    for name, parameter in named.items():
        decay = 0.05 if parameter.ndim > 1 and name not in whole else 0.0
        rate = 1e-3 if name.split(".")[0] in ("fusion", "visual_fusion") else 1e-4
        assert settings[id(parameter)] == (decay, pytest.approx(rate)), name
    assert {rate for _, rate in settings.values()} == {1e-4, 1e-3}


def test_skipped_epochs_of_validation_and_the_last_one(home, tmp_path):
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    flags += ["--num-epochs", "3", "--validation-frequency", "2", "--no-save"]
    blip_fine_tune_2.main([*flags, "--output", str(tmp_path / "run")])
    assert pd.read_csv(tmp_path / "run" / "validation_metrics.csv")["epoch"].tolist() == [1, 2]
    rates = pd.read_csv(tmp_path / "run" / "train_metrics.csv")["learning_rate"]
    assert rates.iloc[-1] == pytest.approx(0, abs=1e-12)  # the cosine spans the epochs asked for
    assert not (tmp_path / "run" / "checkpoints").exists()  # nothing was to be kept


def test_defaults_of_data_are_the_published_folders():
    assert DataConfig("CIRR").folder == Path("cirr_dataset")
    assert DataConfig("FashionIQ").folder == Path("fashionIQ_dataset")
