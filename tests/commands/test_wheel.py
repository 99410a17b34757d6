"""The package as pip installs it, away from this checkout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import forked_demo
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel's content; other packages come from this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files behind
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source]
    subprocess.run([*pip, *build], check=True)
    [wheel] = folder.glob("gatedcir-*.whl")
    place = ["install", "--no-deps", "--no-index", "--target", folder / "site", wheel]
    subprocess.run([*pip, *place], check=True)
    return folder / "site"


def run(installed, folder, *command):
    """What a process prints that sees the wheel and not this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_demo_runs_with_the_wheel(installed, tmp_path):
    """Without the installation: an environment is in place, whose Python is this one."""
    for name in ("Makefile", "requirements.txt", "requirements-page.txt", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    for done in (".runtime", ".page"):
        (tmp_path / ".venv" / done).touch()
    short = "--train 64 --val 6 --num 1"
    forks = Path(forked_demo.__file__)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{forks}" "$@" {short}\n')
    python.chmod(0o755)
    printed = run(installed, tmp_path, "make", "demo")
    trained = ("trained, gate taught", "trained, gated fusion", "trained, no gating")
    rows = (*trained, "image-only", "text-only", "random")
    assert all(f"| {name}" in printed for name in rows)
    assert "R@50" in printed and "(R@5+Rs@1)/2" in printed
    assert len(list((tmp_path / "demo" / "gate_maps").iterdir())) == 1
    assert "Queries of run_none" in (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    for name in ("run_taught", "run_gated", "run_none"):  # one by a process that was started
        made_by = json.loads((tmp_path / "demo" / name / "provenance.json").read_text())
        assert made_by["git"] == "unknown"  # this checkout has a revision
        assert made_by["command"][:2] == ["gatedcir", "train"]


def test_the_command_is_that_of_the_wheel(installed, tmp_path):
    where = run(installed, tmp_path, sys.executable, "-c", "print(__import__('gatedcir').__file__)")
    assert Path(where.strip()) == installed / "gatedcir" / "__init__.py"
    command = [sys.executable, installed / "bin" / "gatedcir"]
    assert run(installed, tmp_path, *command, "--version").startswith("gatedcir ")


def test_the_wheel_has_types_and_only_the_package(installed):
    assert (installed / "gatedcir" / "py.typed").is_file()
    names = {path.name.partition("-")[0] for path in installed.iterdir()}
    assert names - {"__pycache__"} == {"gatedcir", "bin"}
