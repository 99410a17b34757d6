"""What the workflow files may do."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_actions_are_pinned_and_tokens_may_read_only(file):
    content = yaml.safe_load(file.read_text())
    assert content["permissions"] == {"contents": "read"}
    jobs = content["jobs"]
    asked = {name: job["permissions"] for name, job in jobs.items() if "permissions" in job}
    assert asked == ({"files": {"contents": "write"}} if file.name == "release.yml" else {})
    steps = [step for job in jobs.values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
    for line in file.read_text().splitlines():  # nox -s actions compares them
        assert "uses:" not in line or re.search(r"@[0-9a-f]{40} # v\d[\d.]*$", line)
    for step in steps:
        for tool in re.findall(r"uvx .*", step.get("run", "")):
            assert re.search(r"\w(==|@)\d", tool), f"{tool} names no version"
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_releases_get_a_list_of_what_they_are_made_of():
    [release] = [file for file in WORKFLOWS if file.name == "release.yml"]
    content = yaml.safe_load(release.read_text())
    assert content[True] == {"release": {"types": ["published"]}}  # YAML reads `on` as true
    words = " ".join(step.get("run", "") for step in content["jobs"]["files"]["steps"])
    assert re.search(r"cyclonedx-bom==[\d.]+ cyclonedx-py environment", words)
    assert "--output-file dist/" in words and "gh release upload" in words


def test_the_suite_runs_on_other_systems_and_versions():
    [file] = [file for file in WORKFLOWS if file.name == "ci.yml"]
    matrix = yaml.safe_load(file.read_text())["jobs"]["versions"]["strategy"]["matrix"]
    pythons = {f"tests-{version}" for version in ("3.11", "3.12", "3.13")}
    assert set(matrix["session"]) == {"lowest", *pythons}
    assert {one["system"] for one in matrix["include"]} == {"macos-latest", "windows-latest"}
    sessions = (ROOT / "noxfile.py").read_text()
    assert 'PYTHONS = ("3.11", "3.12", "3.13")' in sessions and "def lowest(" in sessions
