"""The versions that pyproject.toml allows, requirements*.txt pin and uv.lock makes exact."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
FILES = {  # -> what pyproject.toml calls them
    "requirements.txt": PROJECT["dependencies"],
    "requirements-dev.txt": PROJECT["optional-dependencies"]["dev"],
    "requirements-docs.txt": PROJECT["optional-dependencies"]["docs"],
}


def pins(file):
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in found}


@pytest.mark.parametrize("file", FILES)
def test_pins_are_what_the_project_allows_and_the_lock_has(file):
    allowed = {canonicalize_name(one.name): one for one in map(Requirement, FILES[file])}
    locked = {package["name"]: package.get("version") for package in LOCK["package"]}
    pinned = pins(file)
    assert pinned
    for name, version in pinned.items():
        assert version in allowed[name].specifier, name
        assert locked[name] == version


def test_the_lock_is_of_this_project():
    [own] = [package for package in LOCK["package"] if package["name"] == PROJECT["name"]]
    listed = own["metadata"]["requires-dist"]
    ours = [one for one in listed if "marker" not in one]
    allowed = map(Requirement, FILES["requirements.txt"])
    expected = {canonicalize_name(one.name): one.specifier for one in allowed}
    found = {one["name"]: Requirement(f"x{one['specifier']}").specifier for one in ours}
    assert found == expected
    assert (ROOT / "uv.lock").stat().st_size < 2e6
    sources = set(re.findall(r'registry = "([^"]+)"', (ROOT / "uv.lock").read_text("utf-8")))
    assert sources == {"https://pypi.org/simple"}
