"""Checkpoints without the frozen tower, which they name."""

import shutil
from dataclasses import replace

import pytest
import torch
from conftest import bad

import blip_fine_tune_2
from gatedcir.assemble.evaluator import place
from gatedcir.assemble.kept import checkpoint_of, towers_left_out, with_own_towers
from gatedcir.assemble.model import build, restore
from gatedcir.errors import UserError
from gatedcir.models.weights.tower import towers_in
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse
from gatedcir.pretrained import TrainedRetriever
from gatedcir.run_folder import checkpoint

OWN = "backbone.vision_model."


def kept(folder, *flags, name="run.pt"):
    """A model that was built, its checkpoint's file, and the checkpoint."""
    config = parse(Config, ["--dataset", "CIRR", *flags], description="")
    model, tokenizer = build(config)
    place(model, torch.device("cpu"), config)
    towers = towers_left_out(config, model)
    found = checkpoint_of(
        model, tokenizer, config, epoch=1, metrics={}, provenance={}, towers=towers
    )
    checkpoint.save(folder / name, replace(found, trainer=None))
    return model, folder / name, found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_tower_is_found_bit_for_bit(tmp_path, precision):
    flags = ["--mixed-precision", precision, "--image-size", "96"]
    model, file, found = kept(tmp_path, *flags)
    assert not towers_in(found.weights) and found.towers[OWN]["sources"] == ["tiny"]
    again, _, _ = restore(checkpoint.load(file))
    expected = model.state_dict()
    assert all(torch.equal(w, expected[n].float()) for n, w in again.state_dict().items())
    _, whole, _ = kept(tmp_path, *flags, "--save-tower", name="whole.pt")
    assert whole.stat().st_size > file.stat().st_size
    assert towers_in(checkpoint.load(whole).weights)


def test_a_tower_is_found_behind_a_run_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept(tmp_path, name="first.pt")
    model, file, found = kept(tmp_path, "--backbone", "first.pt", name="second.pt")
    assert found.towers[OWN]["sources"] == ["first.pt", str(tmp_path / "first.pt"), "tiny"]
    (tmp_path / "first.pt").unlink()
    again = TrainedRetriever.from_pretrained(file).model.state_dict()
    assert all(torch.equal(again[n], w.float()) for n, w in model.state_dict().items())


def test_a_tower_that_was_moved_is_found_by_a_link(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, first, whole = kept(tmp_path, "--save-tower", name="first.pt")
    weights = {n: w + (n == f"{OWN}embeddings.class_embedding") for n, w in whole.weights.items()}
    checkpoint.save(first, replace(whole, weights=weights))
    (tmp_path / "run").mkdir()
    model, file, _ = kept(tmp_path / "run", "--backbone", "first.pt")
    moved = first.rename(tmp_path / "moved.pt")
    with pytest.raises(UserError, match=f"link it as {tmp_path / 'run' / 'tower'}, or"):
        TrainedRetriever.from_pretrained(file)
    (tmp_path / "run" / "tower").symlink_to(moved)
    again = TrainedRetriever.from_pretrained(file).model.state_dict()
    assert all(torch.equal(again[n], w.float()) for n, w in model.state_dict().items())


def test_what_is_missing_is_named(tmp_path):
    _, file, found = kept(tmp_path)
    gone = {**found.towers[OWN], "sources": ["gone/run"], "hash": "abc"}
    checkpoint.save(file, replace(found, towers={OWN: gone}))
    with pytest.raises(UserError, match=rf"^{file} leaves out .*\(abc\).* gone/run .*--save-tower"):
        TrainedRetriever.from_pretrained(file)
    other = {**gone, "sources": ["tiny"]}
    checkpoint.save(file, replace(found, towers={OWN: other}))
    with pytest.raises(UserError, match="tiny has it here"):
        TrainedRetriever.from_pretrained(file)


def test_a_run_does_not_go_on_with_another_tower(tmp_path):
    model, _, found = kept(tmp_path)
    assert with_own_towers(found, model).keys() == model.state_dict().keys()
    other = replace(found, weights={**found.weights, "temp": torch.ones(2)})
    with pytest.raises(UserError, match=r"--backbone: 1 of another shape \(temp: \[2\]"):
        with_own_towers(other, model)
    with torch.no_grad():
        model.backbone.vision_model.embeddings.class_embedding += 1
    with pytest.raises(
        UserError, match="the vision tower of tiny, and that of --backbone is another"
    ):
        with_own_towers(found, model)


def test_a_run_leaves_the_tower_out(cirr_run, tmp_path):
    run = shutil.copytree(cirr_run, tmp_path / "run")
    for name in ("best.pt", "last.pt", "before_last.pt"):
        found = checkpoint.load(run / "checkpoints" / name)
        assert found.towers[OWN]["sources"] == ["tiny"] and not towers_in(found.weights)
    last = run / "checkpoints" / "last.pt"
    checkpoint.save(last, replace(found, towers={OWN: {**found.towers[OWN], "hash": "abc"}}))
    bad(
        blip_fine_tune_2,
        ["--resume", run],
        "the vision tower of tiny, and that of --backbone is another",
    )
