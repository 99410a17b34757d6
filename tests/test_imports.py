"""The plan of the rooms: a room imports only from lower floors, and from itself."""

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "gatedcir"
FLOORS = (  # from the ground up
    "children",
    "errors",
    "outputs",
    "files plugins",
    "device processes progress visual resources start",
    "visualize data multiscale",
    "synthetic benchmarks run_folder",
    "doctor",
    "models",
    "features",
    "search",
    "evaluation",
    "options",
    "assemble",
    "report",
    "ablation gallery training",
    "page pretrained",
    "commands",
    "__main__",
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor.split()}
MODULES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = sorted(
    path
    for folder in ("src", "scripts", "data_preparation")
    for path in (ROOT / folder).rglob("*.py")
)
BLIP2_FILES = {"src/gatedcir/models/backbone.py"}
LAVIS_FILES = {
    "scripts/with_lavis/lavis_reference.py",
    "scripts/with_lavis/lavis_weights.py",
}  # an environment apart


def imports_of(source):
    """Dotted names of all imports, those inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def rooms(names):
    """The parts of the package that imported names belong to."""
    return {name.split(".")[1] for name in names if name.split(".")[0] == "gatedcir"}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def offenders(paths, is_wrong):
    return {relative(path): bad for path in paths if (bad := is_wrong(path))}


@cache
def imported(path):
    return imports_of(path.read_text(encoding="utf-8"))


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_are_found():
    source = (
        "import torch.nn as nn\nfrom gatedcir import device\n"
        "def f():\n    from gatedcir.models.text import clean\n    from . import near\n"
    )
    found = imports_of(source)
    assert found == {"torch.nn", "gatedcir.device", "gatedcir.models.text.clean", "..near"}
    assert rooms(found) == {"device", "models"}
    assert len(MODULES) > 20


def test_a_room_imports_only_from_lower_floors():
    def wrong(path):
        room = room_of(path)
        return {
            other
            for other in rooms(imported(path)) - {room}
            if FLOOR_OF.get(other, len(FLOORS)) >= FLOOR_OF[room]
        }

    modules = [path for path in MODULES if path != PACKAGE / "__init__.py"]
    assert {room_of(path) for path in modules} == set(FLOOR_OF)
    assert offenders(modules, wrong) == {}


def test_the_top_of_the_package_is_its_ground_floor():
    ground = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert ground == {*" ".join(FLOORS[:5]).split(), "pretrained", "__main__"}


def test_the_package_imports_no_script_and_nothing_relative():
    scripts = {
        path.stem
        for folder in ("src", "scripts", "data_preparation")
        for path in (ROOT / folder).rglob("*.py")
        if PACKAGE not in path.parents
    }
    assert scripts

    def wrong(path):
        return {name for name in imported(path) if name.split(".")[0] in {"", *scripts}}

    assert offenders(MODULES, wrong) == {}


def test_nothing_imports_what_is_not_there():
    def wrong(path):
        return {n for n in imported(path) if n.split(".")[0] in ("torchvision", "timm", "lavis")}

    found = offenders([*PROGRAMS, *sorted((ROOT / "tests").rglob("*.py"))], wrong)
    assert set(found) == LAVIS_FILES


def test_blip2_of_transformers_stays_behind_one_file():
    def wrong(path):
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Name | ast.Attribute):
                found.add(node.id if isinstance(node, ast.Name) else node.attr)
        return {name for name in found if name.startswith("Blip2")}

    # LAVIS' own class is called Blip2Qformer.
    found = offenders([path for path in PROGRAMS if relative(path) not in LAVIS_FILES], wrong)
    assert "src/gatedcir/models/backbone.py" in found  # the search finds what is there
    assert set(found) <= BLIP2_FILES


PUBLIC = ("gatedcir", "gatedcir.models.gated_fusion", "gatedcir.multiscale")


def test_init_files_are_empty_but_for_public_names():
    files = sorted(PACKAGE.rglob("__init__.py"))
    folders = {path.parent for path in MODULES}
    assert {path.parent for path in files} == folders
    written = [path for path in files if path.read_text(encoding="utf-8")]
    expected = [PACKAGE.parent / name.replace(".", "/") / "__init__.py" for name in PUBLIC]
    assert written == sorted(expected)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_there(name):
    module = importlib.import_module(name)
    assert all(getattr(module, one) is not None for one in module.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = module.Nothing


def test_the_package_alone_imports_nothing_large():
    code = "import gatedcir, sys; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_names_on_the_path_hide_no_common_module():
    names = {path.stem for path in (ROOT / "src").iterdir()}
    assert "gatedcir" in names
    assert not names & {"datasets", "test", "utils", "types"}
