"""The pages keep to short sentences and common words."""

import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RARE = re.compile(r"\b(anew|likewise|beside|for want of|to be had|befits|wavers)\b", re.IGNORECASE)


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
