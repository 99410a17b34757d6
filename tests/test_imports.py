"""The import arrow: config <- {data, models, losses, ...} <- {assemble, train, ...} <- scripts."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "gatedcir"
MIDDLE = {"data", "models", "losses", "retrieval", "visualize", "synthetic"}
MODULES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = sorted(
    path
    for folder in ("src", "scripts", "data_preparation")
    for path in (ROOT / folder).rglob("*.py")
)
MORE = {
    "src/gatedcir/models/build.py": {"config", "parsing", "checkpoint"},
    "src/gatedcir/models/hub_folder.py": {"checkpoint"},
    "src/gatedcir/models/locations.py": {"checkpoint", "config"},
    "src/gatedcir/models/sources.py": {"checkpoint"},
}
BLIP2_FILES = {"src/gatedcir/models/backbone.py"}
LAVIS_FILES = {"scripts/lavis_reference.py", "scripts/lavis_weights.py"}  # an environment apart


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


def boxes(names):
    """The parts of the package that imported names belong to."""
    return {name.split(".")[1] for name in names if name.split(".")[0] == "gatedcir"}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def offenders(paths, is_wrong):
    return {relative(path): bad for path in paths if (bad := is_wrong(path))}


@cache
def imported(path):
    return imports_of(path.read_text(encoding="utf-8"))


def box_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_are_found():
    source = (
        "import torch.nn as nn\nfrom gatedcir import checkpoint\n"
        "def f():\n    from gatedcir.models.text import clean\n    from . import near\n"
    )
    found = imports_of(source)
    assert found == {"torch.nn", "gatedcir.checkpoint", "gatedcir.models.text.clean", "..near"}
    assert boxes(found) == {"checkpoint", "models"}
    assert len(MODULES) > 20
    assert {box_of(path) for path in MODULES} >= MIDDLE


def test_middle_boxes_import_only_themselves():
    def wrong(path):
        allowed = {box_of(path), "errors", "files"}
        allowed |= MORE.get(relative(path), set())
        return boxes(imported(path)) - allowed

    assert offenders([path for path in MODULES if box_of(path) in MIDDLE], wrong) == {}


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("errors", set()),
        ("config", set()),
        ("flags", set()),
        ("paths", {"config", "errors"}),
        ("refusals", {"config", "errors", "flags"}),
        ("parsing", {"config", "errors", "flags", "paths", "refusals"}),
        ("checkpoint", {"errors", "files"}),
    ],
)
def test_the_bottom_imports_nothing_above(module, allowed):
    assert boxes(imported(PACKAGE / f"{module}.py")) <= allowed


def test_the_package_imports_no_script_and_nothing_relative():
    scripts = {
        path.stem
        for folder in ("src", "scripts", "data_preparation")
        for path in (ROOT / folder).glob("*.py")
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


def test_init_files_are_empty():
    files = sorted(PACKAGE.rglob("__init__.py"))
    assert len(files) >= 6
    assert [relative(path) for path in files if path.read_text(encoding="utf-8")] == []
    folders = {path.parent for path in MODULES}
    assert {path.parent for path in files} == folders


def test_names_on_the_path_hide_no_common_module():
    names = {path.stem for path in (ROOT / "src").iterdir()}
    assert "gatedcir" in names
    assert not names & {"datasets", "test", "utils", "types"}
