"""Every command of the README is run, training made short by flags that come later."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHORT
from PIL import Image

from gatedcir.ablation.cells import read_grid
from gatedcir.errors import UserError
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
DEMO = "python scripts/demo.py"
OWN_TESTS = (DEMO, "make demo")
FEW = "--train 24 --val 6 --test 6".split()
SHORTER = {
    "ablate.py": [*SHORT, "--num-epochs", "1", "--seeds", "1", "--grid", "few.yaml"],
    "blip_fine_tune_2.py": [*SHORT, "--num-epochs", "1"],
    "cache_features.py": SHORT,
    "make_synthetic.py": FEW,
    "visualize_fusion.py": ["--num", "1"],
    "resize_images.py": ["--num-workers", "0"],
    "visualize_gates.py": [],
    "blip_validate.py": [],
    "cirr_test_submission.py": [],
    "export_weights.py": [],
}


@pytest.fixture(scope="module")
def workplace(home):
    """A folder that looks like a checkout with both datasets in place."""
    for name in ("src", "scripts", "configs", "data_preparation"):
        (home / name).symlink_to(ROOT / name)
    Image.new("RGB", (80, 60), "red").save(home / "dog.jpg")
    (home / "few.yaml").write_text("baseline: one\ncells: {one: {}}\n")
    return home


def test_commands_were_found():
    assert len(COMMANDS) > 12
    assert {line.split()[0] for line in COMMANDS} == {"make", "python", "accelerate"}
    assert [line for line in COMMANDS if line.startswith("make")] == ["make demo"]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line not in OWN_TESTS])
def test_command(line, workplace, monkeypatch):
    program, *words = shlex.split(line)
    monkeypatch.chdir(workplace)
    if program == "accelerate":
        command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", *words[1:], *SHORT]
        subprocess.run([*command, "--num-epochs", "1"], check=True, capture_output=True)
        return
    script, *flags = words
    more = [] if "--resume" in flags else SHORTER[Path(script).name]
    monkeypatch.setattr(sys, "argv", [script, *flags, *more])
    runpy.run_path(script, run_name="__main__")


def test_the_readmes_grid_is_one(tmp_path):
    [text] = re.findall(r"```yaml\n(baseline.*?)```", README, re.DOTALL)
    (tmp_path / "grid.yaml").write_text(text)
    shared = parse(Config, ["--dataset", "CIRR"], description="")
    assert len(read_grid(tmp_path / "grid.yaml", shared, seeds=5).cells) == 3


def test_demo(tmp_path, capsys):
    import demo

    assert DEMO in COMMANDS
    sizes = "--train 128 --val 10 --num-epochs 1 --num 1".split()
    demo.main(["--output", str(tmp_path), *sizes])
    printed = capsys.readouterr().out
    rows = ("trained, gated fusion", "trained, no gating", "image-only", "text-only", "random")
    assert all(f"| {name}" in printed for name in rows)
    assert "R@50" in printed and "(R@5+Rs@1)/2" in printed
    assert len(list((tmp_path / "gate_maps").iterdir())) == 1


def test_a_demo_whose_training_fails_says_why(tmp_path):
    import demo

    with pytest.raises(
        UserError, match=r"run_gated failed \([^;]*fewer than one batch of 64\); its errors.log"
    ):
        demo.main(["--output", str(tmp_path), "--train", "10", "--val", "10"])
    assert not (tmp_path / "gate_maps").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_demo(tmp_path):
    """Without the installation: an environment is in place, whose Python is this one."""
    names = ("Makefile", "requirements.txt", "pyproject.toml", "scripts", "configs")
    for name in names:
        (tmp_path / name).symlink_to(ROOT / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (tmp_path / ".venv" / ".runtime").touch()
    short = "--train 128 --val 10 --num 1"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@" {short}\n')
    python.chmod(0o755)
    done = subprocess.run(["make", "demo"], cwd=tmp_path, check=True, stdout=subprocess.PIPE)
    assert b"| trained, gated fusion" in done.stdout
    assert len(list((tmp_path / "demo" / "gate_maps").iterdir())) == 1


def test_the_file_tree_names_what_is_there():
    for name in re.findall(r"^\s+(\w+\.py)\s", README, re.MULTILINE):
        assert list(ROOT.glob(f"src/**/{name}")), name
    for folder in re.findall(r"^\s{4}(\w+(?:/\w+)?)/ ", README, re.MULTILINE):
        assert (ROOT / "src" / "gatedcir" / folder).is_dir(), folder
