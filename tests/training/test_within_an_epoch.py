"""Runs that end in the middle of an epoch, by a signal or at once, equal undisturbed ones."""

import os
import shutil
import signal

import pandas as pd
import pytest
import torch
from conftest import SHORT

import blip_fine_tune_2
from gatedcir.errors import Stopped
from gatedcir.run_folder import checkpoint
from gatedcir.training import loop
from gatedcir.training.saving import Saving

OF_THE_MACHINE = {"triplets_per_second", "peak_memory_gib"}
EIGHT = "--limit 16 --batch-size 4 --accumulate 2 --num-epochs 2 --save-training".split()


def flags_of(home, run, *more):
    data = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset"]
    return list(map(str, [*data, *SHORT, *EIGHT, "--learning-rate", 1e-3, "--output", run, *more]))


def assert_equal_runs(found, expected):
    for name in ("last.pt", "best.pt"):
        one, two = (checkpoint.load(run / "checkpoints" / name) for run in (found, expected))
        assert one.epoch == two.epoch and one.metrics == two.metrics
        assert all(torch.equal(one.weights[n], w) for n, w in two.weights.items())
    for table in ("train_metrics.csv", "validation_metrics.csv", "train_steps.csv"):
        one, two = (pd.read_csv(run / table) for run in (found, expected))
        columns = [c for c in two.columns if c not in OF_THE_MACHINE]
        pd.testing.assert_frame_equal(one[columns], two[columns])


class Killed(BaseException):
    """Nothing may be done after it, as after kill -9."""


def interrupted(monkeypatch, flags, *, step, how):
    """Train, and let something happen after a step, the steps of all epochs counted."""
    calls, after = [], Saving.after_step

    def after_step(self, epoch, so_far):
        calls.append(epoch)
        if len(calls) == step:
            how()
        after(self, epoch, so_far)

    monkeypatch.setattr(Saving, "after_step", after_step)
    with pytest.raises(BaseException) as end:
        blip_fine_tune_2.main(flags)
    monkeypatch.undo()
    return end.value


def killed():
    raise Killed


@pytest.fixture(scope="module")
def undisturbed(home, tmp_path_factory):
    """A run of two epochs of four steps."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    blip_fine_tune_2.main(flags_of(home, run))
    return run


@pytest.mark.parametrize("more", [[], ["--cache-features", "none", "--num-workers", "2"]])
def test_a_run_that_was_killed_within_an_epoch_goes_on_there(
    home, undisturbed, tmp_path, monkeypatch, capsys, more
):
    """With kept features, and with images that two processes read, and then one."""
    run = tmp_path / "run"
    flags = flags_of(home, run, "--save-every-steps", 2, *more)
    end = interrupted(monkeypatch, flags, step=6, how=killed)  # the third step of epoch 1
    assert isinstance(end, Killed)
    kept = checkpoint.load(run / "checkpoints" / "last.pt")
    assert kept.epoch == 1 and kept.trainer["so_far"][0]["steps"] == 2
    capsys.readouterr()
    blip_fine_tune_2.main(["--resume", str(run), *(["--num-workers", "1"] if more else [])])
    assert "it goes on with epoch 1 at step 2\n" in capsys.readouterr().out
    assert_equal_runs(run, undisturbed)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGUSR1, 0)]
)
def test_a_signal_saves_and_says_how_to_go_on(
    home, undisturbed, tmp_path, monkeypatch, capsys, number, status
):
    run = tmp_path / "run"
    before = signal.getsignal(number)
    end = interrupted(
        monkeypatch, flags_of(home, run), step=1, how=lambda: os.kill(os.getpid(), number)
    )
    assert isinstance(end, Stopped) and end.status == status
    assert f"go on with --resume {run}" in str(end)
    assert signal.getsignal(number) == before
    kept = checkpoint.load(run / "checkpoints" / "last.pt")
    assert kept.epoch == 0 and kept.trainer["so_far"][0]["steps"] == 1
    if status:
        # The newest is damaged later, so that the one before counts, which is the same here.
        last = run / "checkpoints" / "last.pt"
        shutil.copy(last, last.with_name("before_last.pt"))
        content = bytearray(last.read_bytes())
        content[len(content) // 2] ^= 1
        last.write_bytes(content)
        blip_fine_tune_2.main(["--resume", str(run)])
        said = capsys.readouterr().out
        assert f"{last} is damaged" in said and "before_last.pt is taken, the save before" in said
        assert_equal_runs(run, undisturbed)
        assert checkpoint.load(last.with_name("before_last.pt")).epoch == 1


def test_a_second_ctrl_c_ends_at_once(home, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    flags = flags_of(home, run, "--save-every-steps", 1)
    end = interrupted(monkeypatch, flags, step=2, how=twice)
    assert isinstance(end, KeyboardInterrupt) and not isinstance(end, Stopped)
    assert f"go on with --resume {run}" in str(end)
    kept = checkpoint.load(run / "checkpoints" / "last.pt")
    assert kept.trainer["so_far"][0]["steps"] == 1


def test_a_signal_in_the_validation_does_not_wait_for_it(home, undisturbed, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def signalled(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the validation went on")

    monkeypatch.setattr(loop, "validate_epoch", signalled)
    with pytest.raises(Stopped, match=f"go on with --resume {run}"):
        blip_fine_tune_2.main(flags_of(home, run, "--no-save-training"))
    monkeypatch.undo()
    blip_fine_tune_2.main(["--resume", str(run)])
    assert_equal_runs(run, undisturbed)  # its old state does not stay behind


def test_the_state_is_written_once_an_epoch_and_after_the_minutes(home, tmp_path, monkeypatch):
    written, save = [], checkpoint.save

    def counted(path, found, **more):
        written.append((path.name, found.epoch, (found.trainer or {}).get("so_far") is not None))
        save(path, found, **more)

    monkeypatch.setattr(checkpoint, "save", counted)
    flags = ["--num-epochs", 1, "--no-save-best", "--validation-frequency"]
    blip_fine_tune_2.main(flags_of(home, tmp_path / "one", *flags, 0))
    assert written == [("last.pt", 1, False)]
    written.clear()
    blip_fine_tune_2.main(flags_of(home, tmp_path / "all", *flags, 1, "--save-every-minutes", 1e-9))
    assert written == [*[("last.pt", 0, True)] * 3, *[("last.pt", 1, False)] * 2]
