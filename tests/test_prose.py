"""The pages keep to short sentences and common words."""

import ast
import importlib
import re
import statistics
import tokenize
from pathlib import Path

import pytest

from gatedcir.commands.main import COMMANDS
from gatedcir.options.command_line import options_of
from gatedcir.options.config import Config

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").glob("*.md")),
]
CODE = sorted(
    path for room in ("src", "scripts", "data_preparation") for path in (ROOT / room).rglob("*.py")
)
RARE = re.compile(r"\b(anew|likewise|beside|for want of|to be had|befits|wavers)\b", re.IGNORECASE)
NAMED = re.compile(r"`((?:tests|src|scripts|docs|configs|data_preparation)/[\w/.*-]*)`")


def prose_of(page: str) -> str:
    """A page without code, tables, headings and addresses."""
    text = re.sub(r"^(```|:::).*?^\1$", "", page, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^[|#].*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "X", text)
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)


def sentences_of(prose: str) -> list[str]:
    """Its sentences of three words or more."""
    parts = re.split(r"\n\s*\n|\n(?=- |\d+\. |: )|(?<=[.!?])\**\s+", prose)
    return [part for part in parts if len(part.split()) > 2]


def test_what_is_counted():
    page = "# A; b\n\nOne `;` two three. Four [five](x;y) six;\nseven.\n\n| ; |\n\n```sh\n;\n```\n"
    assert sentences_of(prose_of(page)) == ["One X two three.", "Four five six;\nseven."]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sentences_are_short_and_words_common(page):
    prose = prose_of(page.read_text(encoding="utf-8"))
    sentences = sentences_of(prose)
    assert not RARE.search(prose)
    assert prose.count(";") <= 3 * len(sentences) / 100
    assert statistics.median(len(sentence.split()) for sentence in sentences) <= 16


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    named = NAMED.findall(page.read_text(encoding="utf-8"))
    assert [path for path in named if not any(ROOT.glob(path.rstrip("/")))] == []


def strings_of(source: str) -> list[str]:
    """Docstrings, messages and help: every string of two words or more."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return [node.value for node in nodes if isinstance(node.value, str) and " " in node.value]


def comments_of(path: Path) -> list[str]:
    """Comments of a file."""
    with path.open("rb") as lines:
        found = list(tokenize.tokenize(lines.readline))
    return [token.string for token in found if token.type == tokenize.COMMENT]


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_words_in_code_are_common(path):
    texts = [*strings_of(path.read_text(encoding="utf-8")), *comments_of(path)]
    assert [text for text in texts if RARE.search(text)] == []


def docstrings_of(source: str) -> list[str]:
    """What modules, classes, functions and fields say, without examples."""
    found = [
        node.value.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    return [re.sub(r"^ *>>> .*?(?=\n *\n|\Z)", "", text, flags=re.S | re.M) for text in found]


def test_docstrings_have_few_semicolons():
    """Lists of arguments and errors may have some."""
    texts = [text for path in CODE for text in docstrings_of(path.read_text(encoding="utf-8"))]
    lists = re.compile(r"\n *(Args|Raises|Returns|Attributes|Source):.*", re.DOTALL)
    plain = [lists.sub("", text) for text in texts]
    sentences = [sentence for text in plain for sentence in sentences_of(prose_of(text))]
    assert len(sentences) > 1000
    assert sum(sentence.count(";") for sentence in sentences) <= len(sentences) / 200


def test_help_has_no_chains_of_semicolons():
    for command in COMMANDS:
        options = getattr(
            importlib.import_module(f"gatedcir.commands.{command}"), "Options", Config
        )
        for option in options_of(options):
            assert ";" not in option.text, option.flag
