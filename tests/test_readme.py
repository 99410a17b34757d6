"""Every command of the README and the pages is run, training made short by later flags."""

import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest
import yaml
from accelerate.commands import launch
from conftest import SHORT, bad
from PIL import Image

from gatedcir.ablation import runs
from gatedcir.ablation.cells import read_grid
from gatedcir.commands import demo
from gatedcir.commands.main import main
from gatedcir.errors import UserError
from gatedcir.evaluation import interventions
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse

ROOT = Path(__file__).parents[1]
# In this order: pages go on with the runs of those before them.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {
    page.name: re.findall(r"```(\w*)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for page in PAGES
}
COMMANDS = [
    (page, line)
    for page, blocks in BLOCKS.items()
    for language, block in blocks
    if language == "sh"
    for line in block.splitlines()
]
DEMO = "make demo"
FEW = "--train 8 --val 2 --test 2".split()
ONE_EPOCH = [*SHORT, "--num-epochs", "1", "--limit", "4"]
IN_ONE = ["--num-workers", "0"]  # process, as SHORT is
SHORTER = {
    "train": ONE_EPOCH,
    "evaluate": IN_ONE,
    "compare": ["--num", "1"],
    "report": ["--num", "1"],
    "submit": IN_ONE,
    "score": [],
    "convert": [],
    "check": [],
    "gates": ["--num", "1"],
    "fusion": ["--num", "1"],
    "ablate": [*ONE_EPOCH, "--seeds", "1", "--grid", "few.yaml"],
    "cache": SHORT,
    "resize": IN_ONE,
    "synthetic": FEW,
    "export": [],
    "describe": [],
    "index": IN_ONE,
    "search": [],
}


def values(line, *flags):
    """What stands after some flags of a command."""
    words = shlex.split(line)
    return [value for flag, value in pairwise(words) if flag in flags]


def first_of_each_kind():
    """All but the commands that differ from one before in the names of runs and results alone.

    What others than these four write is read by commands after them.
    """
    kinds = {}
    for page, line in COMMANDS:
        names = [*values(line, "--model-path", "--resume"), *values(line, "--output", "--num")]
        repeated = line.split()[1] in {"ablate", "evaluate", "gates", "train"}
        apart = [name for name in names if name.startswith("exported") or not repeated]
        kind = [word for word in shlex.split(line) if word not in names or word in apart]
        kinds.setdefault(tuple(kind), (page, line))
    return list(kinds.values())


@pytest.fixture(scope="module")
def workplace(home):
    """A folder that looks like a checkout with both datasets in place."""
    for name in ("src", "scripts", "configs", "data_preparation"):
        (home / name).symlink_to(ROOT / name)
    Image.new("RGB", (80, 60), "red").save(home / "dog.jpg")
    (home / "photos").mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (80, 60), colour).save(home / "photos" / f"{colour}.jpg")
    (home / "photos.csv").write_text("path,category,price\nred.jpg,dress,20\nblue.jpg,shirt,9\n")
    (home / "few.yaml").write_text("baseline: one\ncells: {one: {}}\n")
    return home


def test_commands_were_found():
    assert len(COMMANDS) > 30
    assert {line.split()[0] for _, line in COMMANDS} == {"make", "gatedcir", "python", "accelerate"}
    # test_wheel.py runs it.
    assert [line for _, line in COMMANDS if line.startswith("make")] == [DEMO]
    named = {line.split()[1] for _, line in COMMANDS if line.startswith("gatedcir")}
    assert named == SHORTER.keys()


def forked_command(command, *, env):
    """What `accelerate launch` starts, without the start of Python."""
    done = forked.call(command, env)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(returncode=0, wait=lambda: 0)


def test_models_that_commands_name_are_the_results_of_commands_before():
    made = set()
    for page, line in COMMANDS:
        assert {*values(line, "--model-path", "--resume")} <= made, (page, line)
        made |= {*values(line, "--output")}


@pytest.mark.parametrize(
    ("page", "line"), [(page, line) for page, line in first_of_each_kind() if line != DEMO]
)
def test_command(page, line, workplace, monkeypatch):
    program, *words = shlex.split(line)
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(interventions, "_RESAMPLES", 99)
    if program == "accelerate":
        monkeypatch.setattr(sys, "argv", ["accelerate launch", "--cpu", *words[1:], *ONE_EPOCH])
        monkeypatch.setattr(subprocess, "Popen", forked_command)
        launch.main()
        return
    name, *flags = words if program == "gatedcir" else ["train", *words[1:]]
    whole = {"--resume", "--image", "--measure", "--add", "--remove", "--check"} & set(flags)
    more = [] if whole else SHORTER[name]
    main([name, *flags, *more])


@pytest.mark.parametrize("page", BLOCKS)
def test_yaml_blocks_are_grids_and_configs(page, tmp_path):
    for text in (block for language, block in BLOCKS[page] if language == "yaml"):
        file = tmp_path / "block.yaml"
        file.write_text(text)
        if "cells" in yaml.safe_load(text):
            shared = parse(Config, ["--dataset", "CIRR"], description="")
            assert len(read_grid(file, shared, seeds=5).cells) >= 3
        else:
            parse(Config, ["--config", str(file)], description="")


def test_pages_are_short():
    lines = {page.name: len(page.read_text(encoding="utf-8").splitlines()) for page in PAGES}
    assert lines.pop("README.md") <= 170
    assert max(lines.values()) <= 300, lines


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_a_demo_whose_training_fails_says_why(tmp_path, monkeypatch):
    def fail(each, **_):
        for run in each:
            run.path.mkdir()
            (run.path / runs.FAILURE).write_text("error: too few triplets; add some.")

    monkeypatch.setattr(runs, "execute", fail)
    with pytest.raises(
        UserError, match=r"run_gated failed \(too few triplets\); its errors.log says more.$"
    ):
        demo.main(["--output", str(tmp_path), "--train", "10", "--val", "10"])
    assert not (tmp_path / "gate_maps").exists()


def test_a_demo_replaces_nothing_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_draw", lambda *_: pytest.fail("it was begun"))
    page, mine = tmp_path / "report.html", tmp_path / "run_gated" / "mine.txt"
    page.write_text("mine")
    words = ["--output", str(tmp_path)]
    bad(demo, words, "report.html is no earlier output of this kind")
    page.unlink()
    mine.parent.mkdir()
    mine.touch()
    bad(demo, words, "run_gated is no run; remove it or name another --output")
    assert mine.exists()


def test_the_file_tree_names_what_is_there():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = page[page.index("```\nsrc/") :]
    for name in re.findall(r"^\s+(\w+\.py)\s", tree, re.MULTILINE):
        assert list(ROOT.glob(f"src/**/{name}")), name
    package = ROOT / "src" / "gatedcir"
    room = package
    for indent, name in re.findall(r"^( {4}| {6})(\w[\w/]*/|\w+\.py)\s", tree, re.MULTILINE):
        place = (package if len(indent) == 4 else room) / name
        assert place.exists(), place
        if len(indent) == 4:
            room = place
    rooms = re.findall(r"^\s{4}(\w+)(?:/\w+)?/ ", tree, re.MULTILINE)
    assert len(rooms) > 10
    assert set(rooms) == {p.name for p in (ROOT / "src" / "gatedcir").iterdir() if p.is_dir()} - {
        "__pycache__"
    }
    words = set(re.findall(r"\w+", tree))
    apart = {"__init__", *(p.stem for p in (ROOT / "src/gatedcir/synthetic").iterdir())}
    modules = {path.stem for path in (ROOT / "src" / "gatedcir").rglob("*.py")} - apart
    assert modules - words == set()
