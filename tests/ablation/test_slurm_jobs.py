"""The runs of a grid as jobs: submitit's executors stand for a cluster."""

import json
import sys
from types import SimpleNamespace

import pytest
from conftest import SHORT, bad
from test_ablation import CELLS, STAND_IN, grid_of

from gatedcir.ablation import runs as runs_module
from gatedcir.ablation.engines import ENGINES
from gatedcir.ablation.runs import execute, runs_of
from gatedcir.ablation.slurm import SlurmJobs, Training, _Job
from gatedcir.commands import ablate
from gatedcir.errors import UserError

submitit = pytest.importorskip("submitit")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """What was asked of a cluster whose jobs run here, and whose trainings only pretend."""
    asked, cancelled = {}, []

    class Here(submitit.DebugExecutor):
        def update_parameters(self, **options):
            asked.update(options)

        class job_class(submitit.core.core.Job):  # noqa: N801 (submitit's name)
            _cancel_at_deletion = False

            def __init__(self, folder, job_id):
                self._job_id = job_id

            def cancel(self, check=True):
                cancelled.append(self._job_id)

    trainer = tmp_path / "trainer.py"
    trainer.write_text(STAND_IN)
    monkeypatch.setattr(runs_module, "TRAINER", (sys.executable, str(trainer)))
    monkeypatch.setattr(submitit, "SlurmExecutor", Here)
    return SimpleNamespace(asked=asked, cancelled=cancelled)


def test_runs_end_as_they_do_as_processes(cluster, tmp_path):
    cells = {name: {"batch-size": 8 + place} for place, name in enumerate(("gated", "none"))}
    cells |= {"later": {"from": "none", "ema": 0.5}, "never": {"from": "gated", "ema": 0.5}}
    runs = runs_of(grid_of(tmp_path, cells, seeds=1), tmp_path)
    options = ("partition=gpu", "time=720")
    engine = ENGINES["slurm"](tmp_path, options=options, jobs=2)
    execute(runs, jobs=2, engine=engine)
    assert cluster.asked == {"partition": "gpu", "time": 720}
    assert [run.failure() for run in runs] == [
        "error: no luck",
        None,
        None,
        "it starts from gated, seed 0, which failed: error: no luck",
    ]
    assert [run.is_finished() for run in runs] == [False, True, True, False]
    numbers = json.loads((tmp_path / "slurm" / "jobs.json").read_text())
    assert list(numbers) == ["gated 0", "none 0", "later 0"]
    ENGINES["slurm"](tmp_path, options=(), jobs=1)  # jobs that a killed ablation left behind
    assert cluster.cancelled == list(numbers.values())
    (tmp_path / "slurm" / "jobs.json").write_text("[")
    with pytest.raises(UserError, match=r"jobs\.json is damaged .*; look with squeue"):
        ENGINES["slurm"](tmp_path, options=(), jobs=1)


def test_a_job_that_the_cluster_ends_says_so(tmp_path):
    [run, *_] = runs_of(grid_of(tmp_path, CELLS), tmp_path)
    error = RuntimeError("trace\nExceeded memory limit")
    job = SimpleNamespace(job_id="7", done=lambda: True, exception=lambda: error)
    runs_module._note_failure(run, _Job(job, run).poll())
    assert run.failure() == "job 7 ended without a result: Exceeded memory limit"
    waiting = SimpleNamespace(done=lambda: False)
    assert _Job(waiting, run).poll() is None


def test_a_job_that_is_preempted_ends_its_training_and_goes_on(tmp_path):
    [run, *_] = runs_of(grid_of(tmp_path, CELLS), tmp_path)
    training, said = Training(run), []
    names = ("terminate", "wait")
    training._process = SimpleNamespace(**{n: lambda n=n: said.append(n) for n in names})
    again = training.checkpoint()
    assert said == ["terminate", "wait"]
    assert again.function.run == run and again.function._process is None


def test_what_is_wrong_is_said(tmp_path, monkeypatch, home):
    words = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset", *SHORT]
    (tmp_path / "grid.yaml").write_text("baseline: a\ncells: {a: {}}\n")
    words += ["--grid", tmp_path / "grid.yaml", "--output", tmp_path / "out", "--seeds", "1"]
    bad(ablate, [*words, "--slurm", "time=5"], "--slurm is for --engine slurm")
    message = '--engine slurm cannot be used here (Could not detect "srun"'
    bad(ablate, [*words, "--engine", "slurm"], message)
    with pytest.raises(UserError, match=r"--slurm time is no option; give NAME=VALUE"):
        monkeypatch.setattr(submitit.SlurmExecutor, "affinity", lambda *_: 1)
        SlurmJobs(tmp_path, options=("time",), jobs=1)
    with pytest.raises(UserError, match=r"cannot be used here .*colour.*; start it on a machine"):
        SlurmJobs(tmp_path, options=("colour=red",), jobs=1)
    monkeypatch.setitem(sys.modules, "submitit", None)
    bad(ablate, [*words, "--engine", "slurm"], "which is not installed", "'gatedcir[slurm]'")
    assert not (tmp_path / "out").exists()
