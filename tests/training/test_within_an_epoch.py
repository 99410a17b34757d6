"""Runs that end in the middle of an epoch, by a signal or at once, equal undisturbed ones."""

import os
import signal
import time
from functools import partial
from types import SimpleNamespace

import pytest
from conftest import SHORT
from cut_runs import Killed, assert_equal_runs, assert_goes_on, interrupted

import blip_fine_tune_2
from gatedcir.errors import Stopped
from gatedcir.options.config import RunConfig
from gatedcir.options.parsing import parse
from gatedcir.run_folder import checkpoint
from gatedcir.run_folder.checkpoint import Checkpoint
from gatedcir.training import loop
from gatedcir.training.saving import Saving
from gatedcir.training.stop import Stop

SMALL = "--limit 6 --batch-size 2 --num-epochs 2 --save-training --validation-frequency 2".split()


def flags_of(home, run, *more):
    data = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset"]
    return list(map(str, [*data, *SHORT, *SMALL, "--learning-rate", 1e-3, "--output", run, *more]))


def send(number):
    """A signal to this process."""
    os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def undisturbed(home, tmp_path_factory):
    """A run of two epochs of three steps."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    blip_fine_tune_2.main(flags_of(home, run))
    return run


def test_a_signal_saves_and_the_run_goes_on_there(home, undisturbed, tmp_path, monkeypatch, capsys):
    """Slurm's warning. Processes read the images here, and kept features are read elsewhere."""
    run, warning = tmp_path / "run", signal.SIGUSR1
    before = signal.getsignal(warning)
    flags = flags_of(home, run, "--cache-features", "none", "--num-workers", 2)
    end = interrupted(monkeypatch, flags, step=1, how=partial(send, warning))
    assert isinstance(end, Stopped) and end.status == 0
    assert str(end).startswith("stopped in epoch 0 after step 1; all up to its last save")
    assert f"go on with --resume {run}" in str(end)
    assert signal.getsignal(warning) == before
    capsys.readouterr()
    assert_goes_on(run, epoch=0, steps=1, whole=undisturbed)
    assert "it goes on with epoch 0 at step 1\n" in capsys.readouterr().out


def test_one_seed_gives_one_run_whoever_reads_the_images(home, undisturbed, tmp_path):
    """Here one process does, in the test above two, and in the undisturbed run none."""
    run = tmp_path / "run"
    blip_fine_tune_2.main(flags_of(home, run, "--cache-features", "none", "--num-workers", 1))
    assert_equal_runs(run, undisturbed)


def test_a_damaged_state_gives_way_to_the_one_before(
    home, undisturbed, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    flags = flags_of(home, run, "--save-every-steps", 1)
    assert isinstance(interrupted(monkeypatch, flags, step=4), Killed)
    last = run / "checkpoints" / "last.pt"
    assert checkpoint.load(last).trainer["so_far"]
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    blip_fine_tune_2.main(["--resume", str(run)])
    said = capsys.readouterr().out
    assert f"{last} is damaged" in said and "before_last.pt is taken, the save before" in said
    assert_equal_runs(run, undisturbed)
    assert checkpoint.load(last.with_name("before_last.pt")).trainer["so_far"]


def test_a_second_ctrl_c_ends_at_once(home, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def twice():
        send(signal.SIGINT)
        send(signal.SIGINT)

    flags = flags_of(home, run, "--save-every-steps", 1)
    end = interrupted(monkeypatch, flags, step=2, how=twice)
    assert isinstance(end, KeyboardInterrupt) and not isinstance(end, Stopped)
    assert Stopped(signal.SIGINT).status == 130
    assert str(end).startswith("stopped in epoch 0 after step 1; all up to its last save")
    assert f"go on with --resume {run}" in str(end)
    kept = checkpoint.load(run / "checkpoints" / "last.pt")
    assert kept.trainer["so_far"][0]["steps"] == 1


def test_a_signal_in_the_validation_does_not_wait_for_it(home, undisturbed, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def signalled(*_):
        send(signal.SIGTERM)
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
    assert written == [*[("last.pt", 0, True)] * 2, *[("last.pt", 1, False)] * 2]


@pytest.mark.parametrize("writes", [True, False])
def test_all_processes_agree_on_when_the_next_save_is_due(tmp_path, monkeypatch, writes):
    """One that writes nothing would else ask for a save in every step from then on."""
    monkeypatch.setattr(checkpoint, "save", lambda *_, **__: None)
    folder = SimpleNamespace(checkpoints=tmp_path, tables={})
    options = parse(RunConfig, ["--save-training", "--save-every-minutes", "1"], description="")
    long_ago = time.monotonic() - 90
    saving = Saving(
        options,
        SimpleNamespace(num_processes=1),
        Stop(),
        take=lambda *_, **__: None,
        open=(lambda: folder) if writes else None,
        goes_on=False,
        best=0.0,
        saved=long_ago,
    )
    assert saving.asked(1) == (0, True)
    saving.write(Checkpoint({}, {}, "", {}, {}, 1, {}, trainer={}))
    assert saving.asked(2) == (0, False)
