"""How the pages in this folder and the package's docstrings become a site (`make docs`)."""

import logging
from importlib import metadata
from pathlib import Path

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]

project = "gatedcir"
copyright = "the gatedcir authors, MIT licence"
try:
    release = metadata.version("gatedcir")
except metadata.PackageNotFoundError:
    release = ""

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "conf.py", "api/modules.rst"]
html_theme = "furo"
html_title = "gatedcir"

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

# The pages of the modules follow from the package's tree: no list of modules is kept by hand.
apidoc_modules = [
    {
        "path": str(ROOT / "src" / "gatedcir"),
        "destination": "api",
        "separate_modules": True,
        "module_first": True,
        "automodule_options": {"members", "show-inheritance"},
    }
]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells of every library that it tries
# Types of other projects have no pages here, and an inventory of theirs would need a network.
nitpick_ignore_regex = [("py:.*", ".*")]


class CellsParser(MystParser):
    """A Python file with `# %%` cells: `[markdown]` cells are text, the others are code."""

    supported = ("cells",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Read the file as the Markdown that it stands for."""
        super().parse(to_markdown(inputstring), document)


def to_markdown(source: str) -> str:
    r"""The cells as Markdown, without what stands before the first one.

    >>> print(to_markdown("# %% [markdown]\n# # Title\n#\n# %%\nx = 1\n"))
    # Title
    <BLANKLINE>
    ```python
    x = 1
    ```
    """
    parts = []
    for cell in source.split("# %%")[1:]:
        kind, _, body = cell.partition("\n")
        if kind.strip() == "[markdown]":
            lines = [line.removeprefix("#").removeprefix(" ") for line in body.splitlines()]
            parts.append("\n".join(lines).strip())
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(parts)


def setup(app: Sphinx) -> None:
    """Let Python files with cells be pages."""
    app.add_source_suffix(".py", "cells")
    app.add_source_parser(CellsParser)
