"""The suite with other versions, and the checks of the workflows: `nox --list` lists all.

nox makes an environment for each session with uv, which also finds the versions of Python. Words
after `--` go to pytest: `nox -s tests-3.13 -- tests/options`.
"""

import re
import subprocess
from pathlib import Path

import nox

PYTHONS = ("3.11", "3.12", "3.13")
WORKFLOWS = Path(".github/workflows")
PINNED = re.compile(r"uses: (?P<action>[\w./-]+)@(?P<commit>[0-9a-f]{40}) # (?P<version>v[\d.]+)$")
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["tests", "lowest", "docs"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The suite with the newest versions that are allowed."""
    _test(session, "highest")


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """The suite with the lowest ones."""
    _test(session, "lowest-direct")


def _test(session: nox.Session, resolution: str) -> None:
    versions = ["--torch-backend", "cpu", "--resolution", resolution]
    session.install(*versions, "--editable", ".[dev]")
    words = session.posargs or ["--numprocesses", "auto", "--dist", "loadfile"]
    session.run("python", "-m", "pytest", *words, env={"OMP_NUM_THREADS": "1"})


@nox.session(python=PYTHONS[0])
def docs(session: nox.Session) -> None:
    """The site, as `make docs` builds it."""
    session.install("-r", "requirements.txt", "-r", "requirements-docs.txt")
    session.install("--no-deps", "--editable", ".")
    session.run("python", "-m", "sphinx", *"-q -W --keep-going -n docs build/docs".split())


def pinned_actions() -> list[dict[str, str]]:
    """The actions of all workflows: each with its commit, and the version that it is said to be.

    ValueError if one is not pinned to a commit.
    """
    found = []
    for file in sorted(WORKFLOWS.glob("*.yml")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if match := PINNED.search(line):
                found.append(match.groupdict())
            elif "uses:" in line:
                raise ValueError(f"{file} pins no commit in {line.strip()!r}")
    return found


@nox.session(venv_backend="none")
def actions(session: nox.Session) -> None:
    """Whether the commits of the workflows' actions are those of their versions (needs GitHub)."""
    for one in {one["action"]: one for one in pinned_actions()}.values():
        tag = f"refs/tags/{one['version']}"
        words = ["git", "ls-remote", f"https://github.com/{one['action']}", tag, f"{tag}^{{}}"]
        lines = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split("\n")
        if not any(line.startswith(one["commit"]) for line in lines):
            session.error(f"{one['action']} {one['version']} is another commit: {lines}")
        session.log(f"{one['action']} {one['version']} is {one['commit']}")
