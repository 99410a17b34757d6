"""What is said where no weights are, or a checkpoint is of another version."""

import pytest

from gatedcir.errors import UserError
from gatedcir.models.weights import locations
from gatedcir.models.weights.locations import locate
from gatedcir.run_folder import checkpoint


def told(name):
    with pytest.raises(UserError) as error:
        locate(str(name))
    return str(error.value)


def run(path):
    (path / "checkpoints").mkdir(parents=True)
    (path / "checkpoints" / checkpoint.BEST).touch()


def test_the_runs_in_a_folder_are_listed(tmp_path):
    demo = tmp_path / "demo"
    run(demo / "run_gated")
    run(demo / "run_none")
    listed = f"name a run: {demo / 'run_gated'} or {demo / 'run_none'}."
    assert told(demo) == f"there are no weights '{demo}'; {listed}"
    assert told(demo / "run_gate") == f"there are no weights '{demo / 'run_gate'}'; {listed}"
    assert locate(str(demo / "run_none")).name == checkpoint.BEST


def test_many_runs_of_an_ablation_are_shortened(tmp_path):
    for cell in ("a", "b"):
        for seed in range(5):
            run(tmp_path / "runs" / cell / f"seed{seed}")
    message = told(tmp_path)
    assert message.count("seed") == 6 and message.endswith("for instance.")


def test_a_run_without_weights_is_told_from_no_run(tmp_path):
    (tmp_path / "config.yaml").touch()
    assert (
        told(tmp_path)
        == f"the run {tmp_path} has kept no weights; train it again without --no-save."
    )
    assert "give tiny, pretrain, coco" in told(tmp_path / "absent")


def test_a_text_file_is_no_damaged_checkpoint(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("# A page\n", encoding="utf-8")
    assert told(file).startswith(f"{file} is a text file and holds no weights; give tiny")
    for start in (b"", b"PK\x03\x04\0\0", b"\x80\x02"):  # whose content says more, later
        file.write_bytes(start)
        assert locate(str(file)) == file


def test_a_missing_run_is_not_only_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(locations, "is_reachable", lambda repository: False)
    assert told("runs/cirr").startswith("there is no runs/cirr here, and on the hub")
    assert "check the path" not in told("coco")
