"""Every flag that a message names is one of each command that can print the message."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

from gatedcir.options.command_line import GENERAL, flag_names
from gatedcir.options.config import Config

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "scripts", "scripts/timing", "scripts/pretraining", "data_preparation")
FLAG = re.compile(r"(?<![\w`-])--[a-z][a-z0-9.-]*[a-z0-9](?![\w.-]*\{)")
TRAINING = {"--config", *flag_names(Config)}
# They use parts of the package, or start other commands: only their own messages count.
TOOLS = (
    "demo bench_cache bench_evaluation bench_multiscale bench_page bench_query bench_reading "
    "bench_recipes bench_report bench_search compare_with_lavis pretrain_tiny check_recall "
    "compare_runs mutate_inputs fuzz_inputs chaos compare report"
).split()
# Modules that commands without these flags reach too, and why these cannot print what names them.
ONLY_TRAINING = {
    "src/gatedcir/features/cache.py": "they never keep features: may_write is false",
    "src/gatedcir/features/folder.py": "they never fill a folder, and read images instead",
    "src/gatedcir/models/gated_fusion/survival.py": "they teach no gate",
    "src/gatedcir/assemble/model.py": "they restore what was built",
    "src/gatedcir/benchmarks/fashioniq.py": "they know its name, and read it with its flags alone",
    "src/gatedcir/assemble/towers.py": "they restore what was built",
    "src/gatedcir/assemble/data.py": "they read no images, or have the flag",
    "src/gatedcir/data/extra.py": "they take no further captions",
    "src/gatedcir/options/parsing.py": "--resume is read where a command has it",
    "src/gatedcir/options/refusals.py": "advice counts where a command has the flags that it names",
}

_WORKERS = {"--num-workers"}  # of data loaders, which the command has not
_GALLERIES = {"--gallery", "--fashioniq-protocol"}  # which the command cannot choose
# What a command's own use of a module leaves out.
_DATA_SETS = {"--data-path", "--dataset", "--skip-unreadable"}  # it reads files of one's own
NOT_SAID = {
    "index": _DATA_SETS,
    "search": _DATA_SETS | _WORKERS,
    "serve": _DATA_SETS | _WORKERS,
    "submit": _GALLERIES,
    "score": _WORKERS | {"--gallery", "--skip-unreadable", "--device"},  # it reads no images
    "convert": _WORKERS | {"--gallery", "--skip-unreadable"},
    "check": _GALLERIES | {"--skip-unreadable", "--fashioniq-categories"},  # it notes them
    "export": _DATA_SETS | _WORKERS | {"--device"},  # it reads no images
    "synthetic": _WORKERS | {"--data-path"},
    "resize": _GALLERIES | {"--fashioniq-categories"},  # it takes what is there
    "fusion": _GALLERIES | _WORKERS,
    "gates": _GALLERIES | _WORKERS,
}
OF_OTHERS = {"--shm-size", "--version"}  # of docker run, and of gatedcir without a command


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def file_of(name):
    """The project's file of a dotted module name, if it is one."""
    for folder in FOLDERS:
        path = ROOT / folder / f"{name.replace('.', '/')}.py"
        if path.is_file():
            return path
    return None


@cache
def imports_of(path):
    """The project's files that a file imports."""
    names = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return {file for name in names if (file := file_of(name))}


def reached(path):
    """All files of the project that a command imports, itself included."""
    found, waiting = set(), [path]
    while waiting:
        if (one := waiting.pop()) not in found:
            found.add(one)
            waiting += imports_of(one)
    return found


@cache
def commands():
    """Path -> flags of every command that parses a dataclass of options."""
    found = {}
    for folder in ("src/gatedcir/commands", *FOLDERS[1:]):
        room = "gatedcir.commands." * folder.startswith("src/")
        for path in sorted((ROOT / folder).glob("*.py")):
            for name in options_parsed(path):
                options = getattr(importlib.import_module(room + path.stem), name)
                found[path] = {*GENERAL, *flag_names(options)}
    return found


def options_parsed(path):
    """The names of the dataclasses that a module's `main` fills."""
    for function in tree(path).body:
        if isinstance(function, ast.FunctionDef) and function.name == "main":
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "parse":
                    yield node.args[0].id


def text_of(node):
    """A string, with {} for what is filled in; "" for other code."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@cache
def sentences(path):
    """Strings of several words, without docstrings, help, and commands between backticks."""
    apart = set()
    for node in ast.walk(tree(path)):
        match node:
            case ast.Expr(value=ast.Constant()):
                apart.add(id(node.value))
            case ast.keyword(arg="help" | "description"):
                apart |= {id(inner) for inner in ast.walk(node.value)}
            case ast.JoinedStr():
                apart |= {id(part) for part in node.values}
    return [
        re.sub(r"`[^`]*`", "", text_of(node))
        for node in ast.walk(tree(path))
        if " " in text_of(node) and id(node) not in apart
    ]


def strangers(sentence, flags):
    """Flags in a sentence that are not of these, nor said to be of training."""
    if re.search(r"train|run that had", sentence):
        flags = flags | TRAINING
    return [flag for flag in FLAG.findall(sentence) if flag not in flags | OF_OTHERS]


def test_strangers_are_found():
    assert strangers("--num {} asks for --no-picture; give --model.{}.", {"--num"}) == [
        "--no-picture"
    ]
    assert strangers("a run that had --save-best", set()) == []
    assert strangers("a run that had --save-bets", set()) == ["--save-bets"]
    assert strangers("give --save-best", set()) == ["--save-best"]
    assert sum(len(FLAG.findall(s)) for path in commands() for s in sentences(path)) > 10


@pytest.mark.parametrize("command", commands(), ids=lambda path: path.stem)
def test_messages_name_flags_of_the_command_at_hand(command):
    flags = commands()[command] | NOT_SAID.get(command.stem, set())
    files = [command] if command.stem in TOOLS else reached(command)
    wrong = {}
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        known = flags | TRAINING if name in ONLY_TRAINING else flags
        for sentence in sentences(file):
            if found := strangers(sentence, known):
                wrong[f"{name}: {sentence}"] = found
    assert wrong == {}
