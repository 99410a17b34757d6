"""Runs that were stopped, damaged or finished: what is kept, what is said, and how to go on."""

import json
import math
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import SHORT, bad

import blip_fine_tune_2
from gatedcir.errors import UserError
from gatedcir.models.weights.locations import TINY
from gatedcir.run_folder import checkpoint
from gatedcir.run_folder.claim import LOCK, Claim
from gatedcir.run_folder.folder import NOT_FINITE, STEPS, TRAIN, VALIDATION, read_table, rows_until
from gatedcir.training import step, trainer


def flags_of(home, run, *more):
    flags = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset", *SHORT]
    return list(map(str, [*flags, "--num-epochs", 2, "--output", run, *more]))


def train(home, run, *more):
    blip_fine_tune_2.main(flags_of(home, run, *more))


def half_done(cirr_run, folder):
    """The run as it was after its first epoch."""
    run = shutil.copytree(cirr_run, folder)
    last = run / "checkpoints" / "last.pt"
    found = checkpoint.load(last)
    tables = {
        name: [row for row in rows if row["epoch"] == 0]
        for name, rows in found.trainer["tables"].items()
    }
    checkpoint.save(last, replace(found, epoch=1, trainer={**found.trainer, "tables": tables}))
    return run


def test_a_folder_in_use_is_told_before_anything_is_read(home, cirr_run, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "load_training", lambda *_: pytest.fail("data were read"))
    monkeypatch.setattr(trainer, "build", lambda *_: pytest.fail("weights were read"))
    for folder, flags in (
        (tmp_path / "run", flags_of(home, tmp_path / "run")),
        (cirr_run, ["--resume", str(cirr_run)]),
    ):
        claim = Claim(folder)
        bad(blip_fine_tune_2, flags, "in use")
        claim.release()


@pytest.mark.parametrize("how", ["new", "resume"])
def test_a_run_that_was_stopped_before_it_kept_anything_starts_again(
    home, tmp_path, monkeypatch, capsys, how
):
    run = tmp_path / "run"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="No space"):
        train(home, run, "--save-training")
    monkeypatch.undo()
    assert (run / LOCK).exists() and (run / TRAIN).exists()
    (run / NOT_FINITE).mkdir()  # of a step before
    flags = flags_of(home, run) if how == "new" else ["--resume", str(run)]
    blip_fine_tune_2.main(flags)
    assert not (run / NOT_FINITE).exists()
    assert "it starts again" in capsys.readouterr().out
    assert pd.read_csv(run / TRAIN)["epoch"].tolist() == [0, 1]
    assert not (run / LOCK).exists()
    bad(blip_fine_tune_2, flags_of(home, run), "already holds a run")
    assert not (run / LOCK).exists()


def test_a_stopped_run_says_what_is_kept(home, tmp_path, monkeypatch, capsys):
    def stopped_in(call, *more):
        calls, run = [], tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        seed_epoch = trainer._seed_epoch

        def interrupted(*args):
            calls.append(args)
            if len(calls) == call:
                raise KeyboardInterrupt
            seed_epoch(*args)

        monkeypatch.setattr(trainer, "_seed_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt) as stop:
            train(home, run, *more)
        monkeypatch.undo()
        return run, str(stop.value)

    run, line = stopped_in(1)
    assert "nothing is kept" in line and not run.exists()
    run, line = stopped_in(2, "--save-training")
    assert f"go on with --resume {run}" in line
    run, line = stopped_in(2)
    assert "best.pt" in line and "--save-training" in line
    run, line = stopped_in(2, "--no-save")
    assert "--no-save" in line and (run / VALIDATION).exists()


def test_a_finished_run_says_that_nothing_is_to_do(cirr_run, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "build", lambda *_: pytest.fail("weights were read"))
    monkeypatch.setattr(trainer, "load_training", lambda *_: pytest.fail("data were read"))
    blip_fine_tune_2.main(["--resume", str(cirr_run)])
    printed = capsys.readouterr().out
    assert "all 2 epochs are done" in printed and f"--backbone {cirr_run}" in printed


DAMAGES = {
    "empty": lambda text: b"",
    "binary": lambda text: bytes(range(256)) * 4,
    "semicolons": lambda text: text.replace(b",", b";"),
    "cut": lambda text: text[: text.index(b"\n") + 1],
    "other columns": lambda text: b"name,value\na,b\n",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_tables_are_written_again_from_the_checkpoint(cirr_run, tmp_path, damage, capsys):
    run = shutil.copytree(cirr_run, tmp_path / "run")
    for name in (TRAIN, VALIDATION, STEPS):
        (run / name).write_bytes(damage((run / name).read_bytes()))
    blip_fine_tune_2.main(["--resume", str(run)])
    printed = capsys.readouterr().out
    for name in (TRAIN, VALIDATION, STEPS):
        assert f"{run / name} is not as training left it" in printed
        assert (run / name).read_bytes() == (cirr_run / name).read_bytes()


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_tables_of_earlier_versions_are_named(cirr_run, tmp_path, damage):
    file = tmp_path / TRAIN
    file.write_bytes(damage((cirr_run / TRAIN).read_bytes()))
    with pytest.raises(UserError, match=f"{file} is damaged .*remove it"):
        rows_until(tmp_path, 2)


@pytest.mark.parametrize("rows", ["0,1\n2,1\n1,1\n", "0,1\n0,1\n", "0.5,1\n", "0,\n", "0,x\n"])
def test_a_table_without_its_numbers_is_refused(tmp_path, rows):
    (tmp_path / TRAIN).write_text("epoch,loss\n" + rows)
    with pytest.raises(UserError, match=r"is damaged \(.*\); put a copy"):
        read_table(tmp_path / TRAIN, "loss", way_out="remove it")


def test_a_resumed_run_says_where_it_goes_on_and_lost_rows(cirr_run, tmp_path, capsys):
    run = half_done(cirr_run, tmp_path / "run")
    blip_fine_tune_2.main(["--resume", str(run)])
    printed = capsys.readouterr().out
    assert f"{run}: 1 of 2 epochs are done, it goes on with epoch 1\n" in printed
    assert pd.read_csv(run / VALIDATION)["epoch"].tolist() == [0, 1]


def test_the_best_is_kept_unless_nothing_is_to_be_kept(home, tmp_path, capsys):
    train(home, tmp_path / "plain", "--num-epochs", 1)
    assert [p.name for p in (tmp_path / "plain" / "checkpoints").iterdir()] == ["best.pt"]
    train(home, tmp_path / "trial", "--num-epochs", 1, "--no-save", "--save-training")
    assert not (tmp_path / "trial" / "checkpoints").exists()
    assert "no weights are kept" in (said := capsys.readouterr().out)
    assert "turns --save-training off too" in said


def test_training_without_a_validation_split(home, tmp_path, capsys):
    data = shutil.copytree(home / "cirr_dataset", tmp_path / "data")
    for file in data.rglob("*.val.json"):
        file.unlink()
    shutil.rmtree(data / "dev")
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(home, whole, "--save-training")
    train(home, run, "--data-path", data, "--validation-frequency", 0)
    assert "no validation (--validation-frequency 0)" in capsys.readouterr().out
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == ["before_last.pt", "last.pt"]
    assert not (run / VALIDATION).exists()
    found, expected = (checkpoint.load(r / "checkpoints" / "last.pt") for r in (run, whole))
    assert found.epoch == 2 and found.metrics == {}
    assert all(torch.equal(found.weights[n], w) for n, w in expected.weights.items())
    before = (run / TRAIN).read_bytes()
    blip_fine_tune_2.main(["--resume", str(run)])  # finished: nothing is overdue
    assert (run / TRAIN).read_bytes() == before


def test_gradients_that_are_not_finite_do_not_replace_a_good_state(home, tmp_path, monkeypatch):
    run, steps = tmp_path / "run", []
    clip = step.clip_gradients

    def poisoned(parameters, norm):
        steps.append(1)
        parameters = list(parameters)
        if len(steps) == 4:  # the last of the second epoch
            next(p for p in parameters if p.grad is not None).grad.fill_(math.nan)
        clip(parameters, norm)

    monkeypatch.setattr(step, "clip_gradients", poisoned)
    bad(blip_fine_tune_2, flags_of(home, run, "--save-training"), "not finite in epoch 1")
    monkeypatch.undo()
    found = checkpoint.load(run / "checkpoints" / "last.pt")
    assert found.epoch == 1 and all(w.isfinite().all() for w in found.weights.values())
    blip_fine_tune_2.main(["--resume", str(run)])
    assert checkpoint.load(run / "checkpoints" / "last.pt").epoch == 2


def test_a_rate_that_destroys_the_model_is_told(home, tmp_path):
    flags = flags_of(home, tmp_path / "run", "--learning-rate", 10, "--batch-size", 8)
    message = bad(blip_fine_tune_2, [*flags, "--num-epochs", 9], "--learning-rate")
    assert "in the first step" in message and "2.08 by guessing" in message


def test_a_run_goes_on_with_the_same_data_only(home, cirr_run, tmp_path):
    run = half_done(cirr_run, tmp_path / "run")
    other = shutil.copytree(home / "cirr_dataset", tmp_path / "other")
    go_on = ["--resume", str(run), "--data-path", str(other)]
    [file] = other.rglob("cap.rc2.val.json")
    same = file.read_text(encoding="utf-8")
    entries = json.loads(same)
    entries[0]["caption"] += " and is new"
    file.write_text(json.dumps(entries), encoding="utf-8")
    places = (f"CIRR val in {other} is not", f"{run} was trained on", f"{home / 'cirr_dataset'};")
    bad(blip_fine_tune_2, go_on, *places, "--data-path")
    file.write_text(same, encoding="utf-8")
    blip_fine_tune_2.main(go_on)  # it was only moved
    assert pd.read_csv(run / TRAIN)["epoch"].tolist() == [0, 1]


def test_a_run_goes_on_with_the_weights_that_it_began_with_in_another_place(
    cirr_run, tmp_path, sprc_file
):
    run = half_done(cirr_run, tmp_path / "run")
    bad(
        blip_fine_tune_2,
        ["--resume", run, "--backbone", sprc_file],
        "and that of --backbone is another; name the old weights",
    )
    moved = shutil.copytree(TINY, tmp_path / "moved")
    blip_fine_tune_2.main(["--resume", str(run), "--backbone", str(moved)])
    found = checkpoint.load(run / "checkpoints" / "last.pt")
    assert found.epoch == 2
    assert [note["sources"][0] for note in found.towers.values()] == [str(moved)]


def test_a_run_of_an_earlier_version_goes_on_without_a_fingerprint(home, cirr_run, tmp_path):
    run = half_done(cirr_run, tmp_path / "run")
    last = run / "checkpoints" / "last.pt"
    found = checkpoint.load(last)
    assert found.provenance.pop("fingerprints").keys() == {"CIRR train", "CIRR val"}
    checkpoint.save(last, found)
    blip_fine_tune_2.main(["--resume", str(run)])
    assert pd.read_csv(run / TRAIN)["epoch"].tolist() == [0, 1]
