"""Several processes equal one. Every start has a limit: processes that wait do so for ever."""

import json
import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from threading import Timer

import data_parallel
import forked
import pandas as pd
import pytest
import torch
from conftest import SHORT
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

import blip_fine_tune_2
import blip_validate
from gatedcir.errors import UserError
from gatedcir.run_folder import checkpoint
from gatedcir.training.bank import bank_similarity

HELPERS = Path(data_parallel.__file__).parent
COMMAND = blip_fine_tune_2.__file__
# The host's own name may resolve to an address that nobody answers.
_NAMES = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
LOOPBACK = {"GLOO_SOCKET_IFNAME": next(iter(_NAMES), "lo")}


def launch(script: str | Path, *arguments: object, limit: int) -> subprocess.CompletedProcess[str]:
    """Run a script on two processes of torchrun, forked; past `limit` seconds both are killed."""
    command = "--nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:0".split()
    command += ["--local-addr", "127.0.0.1", str(script), *map(str, arguments)]
    started = []

    def start(_: SubprocessHandler, words: tuple, environment: dict[str, str]) -> forked.Started:
        words = [word for word in words if word != "-u"]
        started.append(forked.start(words, environment, stdout=output, stderr=output))
        return started[-1]

    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with tempfile.NamedTemporaryFile("rb") as output, pytest.MonkeyPatch.context() as patch:
        patch.setattr(SubprocessHandler, "_popen", start)
        patch.setattr(SubprocessHandler, "close", lambda *_, **__: [one.kill() for one in started])
        patch.setattr(os, "environ", {**os.environ, **LOOPBACK})  # torchrun writes into it
        late = Timer(limit, lambda: [one.kill() for one in started])
        late.start()
        try:
            torchrun.run(torchrun.parse_args(command))
        except ChildFailedError as error:
            return subprocess.CompletedProcess(command, 1, f"{output.read().decode()}\n{error}")
        finally:
            late.cancel()
            for number, handler in handlers.items():
                if handler != signal.getsignal(number):
                    signal.signal(number, handler)
        return subprocess.CompletedProcess(command, 0, output.read().decode())


def fork(
    script: str | Path, *arguments: object, shards: bool = False
) -> subprocess.CompletedProcess[str]:
    """The same without a launcher, which saves most of the time."""
    environment = {**LOOPBACK, "ACCELERATE_USE_FSDP": str(shards).lower()}
    return forked.run(str(script), [*map(str, arguments)], environment, limit=300)


@pytest.fixture(scope="module")
def _reach() -> None:
    """Skips where even a sum over two processes does not work."""
    done = fork(HELPERS / "reach.py")
    if done.returncode:
        pytest.skip(f"two processes cannot reach one another here: {done.stdout[-300:]}")


@pytest.mark.usefixtures("_reach")
def test_two_processes_equal_one_with_the_whole_batch(tmp_path):
    inputs, head = data_parallel.batch_and_head()
    temp = torch.tensor(0.07, requires_grad=True)
    loss = data_parallel.loss_of(head, inputs, data_parallel.TARGET_IDS, temp)
    loss.backward()
    done = fork(data_parallel.__file__, tmp_path)
    assert done.returncode == 0, done.stdout[-2000:]
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(data_parallel.PROCESSES)]
    torch.testing.assert_close(sum(r[0] for r in results) / len(results), loss)
    for _, gradient in results:  # averaged over processes by DDP
        torch.testing.assert_close(gradient, head.weight.grad)
    for rank in range(data_parallel.PROCESSES):  # and so when each computes its half in chunks
        chunked = torch.load(tmp_path / f"chunks_{rank}.pt")
        torch.testing.assert_close(chunked[0], results[rank][0])
        torch.testing.assert_close(chunked[1], head.weight.grad)
        torch.testing.assert_close(chunked[2], temp.grad)
    inputs, head = data_parallel.batch_and_head()
    bank, labels = data_parallel.bank_and_labels()
    loss = data_parallel.bank_loss(head, inputs, labels, lambda query: bank_similarity(query, bank))
    loss.backward()
    results = [torch.load(tmp_path / f"bank_{rank}.pt") for rank in range(data_parallel.PROCESSES)]
    torch.testing.assert_close(sum(r[0] for r in results) / len(results), loss)
    for _, gradient, both in results:  # each keeps a part of the bank: two images, and one
        torch.testing.assert_close(gradient, head.weight.grad)
        assert torch.equal(both, bank)


@pytest.fixture(scope="module")
def run_of_two(_reach, home, tmp_path_factory):
    """A run of two epochs on two processes, which share a folder of features, and its flags.

    Without dropout, whose random numbers no two processes share, one process with all triplets of
    a step in its batch does the same.
    """
    flags = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset", *SHORT]
    flags += ["--num-epochs", "2", "--learning-rate", "1e-3", "--save-training"]
    flags += ["--batch-size", "2"]  # two steps an epoch
    flags += ["--model.gated-fusion.dropout", "0", "--model.gated-fusion.reads", "qformer"]
    flags += ["--loss-gate", "1", "--gate-target-layers", "0", "-1"]
    folder = tmp_path_factory.mktemp("two")
    flags += ["--cache-features", folder / "features"]
    run = folder / "run"
    done = launch(COMMAND, *flags, "--output", run, limit=300)
    assert done.returncode == 0, done.stdout[-2000:]
    return run, flags


def test_the_command_trains_on_two_processes(run_of_two):
    run, _ = run_of_two
    assert json.loads((run / "provenance.json").read_text())["processes"] == 2
    assert len(pd.read_csv(run / "validation_metrics.csv")) == 2
    assert (run / "checkpoints" / "last.pt").is_file()


def test_the_model_learns_on_two_processes_as_on_one_with_the_whole_batch(run_of_two, tmp_path):
    two, flags = run_of_two
    one = tmp_path / "one"
    alone = ["--batch-size", "4", "--cache-features", "none", "--num-workers", "1"]
    blip_fine_tune_2.main([*map(str, flags), *alone, "--output", str(one)])
    found, expected = (pd.read_csv(run / "train_metrics.csv") for run in (two, one))
    for name in ("loss", "loss_itc", "loss_rtc", "loss_align", "loss_gate", "gate_mean", "alpha"):
        assert found[name].tolist() == pytest.approx(expected[name].tolist(), rel=1e-4), name
    found, expected = (checkpoint.load(run / "checkpoints" / "last.pt") for run in (two, one))
    # Running means of the gradients of both steps; those of the keys' biases are rounding alone.
    gradients, right = (
        [state["exp_avg"] for state in saved.trainer["optimizer"]["state"].values()]
        for saved in (found, expected)
    )
    whole = torch.cat([gradient.flatten() for gradient in right]).norm()
    for number, (mine, other) in enumerate(zip(gradients, right, strict=True)):
        assert (mine - other).norm() < 1e-3 * other.norm() + 1e-6 * whole, number


def test_recalls_of_two_processes_are_those_of_one(run_of_two, home, tmp_path):
    run, _ = run_of_two
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset")]
    last = run / "checkpoints" / "last.pt"
    blip_validate.main([*flags, "--model-path", str(last), "--json", str(tmp_path / "one.json")])
    one = json.loads((tmp_path / "one.json").read_text())["metrics"]
    two = pd.read_csv(run / "validation_metrics.csv").iloc[-1]
    assert {name: two[name] for name in one} == pytest.approx(one)


def test_a_run_of_two_does_not_go_on_with_one(run_of_two):
    run, _ = run_of_two
    with pytest.raises(UserError, match="was trained on 2 processes and not 1"):
        blip_fine_tune_2.main(["--resume", str(run)])


def test_two_processes_resume_exactly(run_of_two, tmp_path):
    expected, flags = run_of_two
    run = tmp_path / "run"
    cut = HELPERS / "cut_off.py"
    assert fork(cut, *flags, "--save-every-steps", "1", "--output", run).returncode != 0
    kept = checkpoint.load(run / "checkpoints" / "last.pt")
    assert kept.epoch == 1 and [part["steps"] for part in kept.trainer["so_far"]] == [1, 1]
    done = fork(COMMAND, "--resume", run)
    assert done.returncode == 0, done.stdout[-2000:]
    found, whole = (checkpoint.load(r / "checkpoints" / "last.pt") for r in (run, expected))
    assert found.epoch == whole.epoch == 2
    for name, weight in whole.weights.items():
        torch.testing.assert_close(found.weights[name], weight, msg=name)


def test_a_bank_in_two_processes_teaches_what_a_whole_one_teaches(run_of_two, tmp_path):
    two, _ = run_of_two
    flags = ["--stage", "bank", "--from", two, *SHORT[2:], "--learning-rate", "1e-3"]
    flags += ["--num-epochs", "2", "--model.query-branch", "none", "--validation-frequency", "0"]
    cut = ["--save-every-steps", "1", "--save-training"]
    spread, whole = tmp_path / "spread", tmp_path / "whole"
    done = fork(HELPERS / "cut_off.py", *flags, *cut, "--batch-size", "2", "--output", spread)
    assert done.returncode != 0
    kept = checkpoint.load(spread / "checkpoints" / "last.pt")
    assert kept.epoch == 1 and len(kept.trainer["so_far"]) == 2
    done = fork(COMMAND, "--resume", spread)
    assert done.returncode == 0, done.stdout[-2000:]
    blip_fine_tune_2.main([*map(str, flags), "--batch-size", "4", "--output", str(whole)])
    found, expected = (pd.read_csv(run / "train_metrics.csv")["loss"] for run in (spread, whole))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.fixture(scope="module")
def run_in_shards(run_of_two, tmp_path_factory):
    """The same with weights in shards, cut off after an epoch and resumed."""
    _, flags = run_of_two
    run = tmp_path_factory.mktemp("shards") / "run"
    cut = HELPERS / "cut_off.py"
    flags = [*flags, "--save-best", "--save-every-steps", "1", "--output", run]
    assert fork(cut, *flags, shards=True).returncode != 0
    assert checkpoint.load(run / "checkpoints" / "last.pt").epoch == 1
    done = fork(COMMAND, "--resume", run, shards=True)
    assert done.returncode == 0, done.stdout[-2000:]
    return run


def test_shards_learn_what_whole_weights_learn(run_of_two, run_in_shards):
    whole, _ = run_of_two
    for run, shards in ((run_in_shards, True), (whole, False)):
        assert json.loads((run / "provenance.json").read_text())["shards"] is shards
    found, expected = (pd.read_csv(r / "train_metrics.csv") for r in (run_in_shards, whole))
    for name in ("loss", "loss_itc", "loss_rtc", "loss_align", "loss_gate", "temp", "alpha"):
        assert found[name].tolist() == pytest.approx(expected[name].tolist(), rel=1e-4), name
    found, expected = (
        checkpoint.load(r / "checkpoints" / "last.pt") for r in (run_in_shards, whole)
    )
    moments = [
        [state["exp_avg"] for state in saved.trainer["optimizer"]["state"].values()]
        for saved in (found, expected)
    ]
    size = torch.cat([moment.flatten() for moment in moments[1]]).norm()
    for number, (mine, other) in enumerate(zip(*moments, strict=True)):
        assert (mine - other).norm() < 1e-3 * other.norm() + 1e-6 * size, number


def test_recalls_in_shards_are_those_of_one_process(run_in_shards, home, tmp_path):
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset")]
    best = run_in_shards / "checkpoints" / "best.pt"
    blip_validate.main([*flags, "--model-path", str(best), "--json", str(tmp_path / "one.json")])
    one = json.loads((tmp_path / "one.json").read_text())["metrics"]
    rows = pd.read_csv(run_in_shards / "validation_metrics.csv")
    row = rows.iloc[checkpoint.load(best).epoch - 1]
    assert {name: row[name] for name in one} == pytest.approx(one)


@pytest.mark.usefixtures("_reach")
def test_a_dry_run_in_shards_and_parts():
    flags = ["--dataset", "CIRR", *SHORT, "--accumulate", "2", "--dry-run"]
    done = fork(COMMAND, *flags, shards=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert done.stdout.count("dry run of tiny") == 1


@pytest.mark.usefixtures("_reach")
def test_scales_that_join_later_and_a_tower_in_less_memory(home, tmp_path):
    flags = [
        "--dataset",
        "CIRR",
        "--data-path",
        str(home / "cirr_dataset"),
        *SHORT,
        "--save-training",
    ]
    flags += (
        "--num-epochs 2 --scale-warmup-epochs 1 --batch-size 2 --accumulate 2 --limit 4".split()
    )
    flags += "--model.visual-scales 0.5 1.0 --model.scale-fusion absi --no-save-best".split()
    flags += "--train-vision --gradient-checkpointing --scales-sequential".split()
    flags += ["--validation-frequency", "0"]
    tables = []
    for shards in (False, True):
        run = tmp_path / str(shards)
        done = fork(COMMAND, *flags, "--output", run, shards=shards)
        assert done.returncode == 0, done.stdout[-2000:]
        tables.append(pd.read_csv(run / "train_metrics.csv"))
    assert len(tables[0]) == 2
    for name in ("loss", "loss_itc", "temp"):
        whole, spread = (table[name].tolist() for table in tables)
        assert spread == pytest.approx(whole, rel=1e-4), name
