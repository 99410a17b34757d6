"""How the pages in this folder and the package's docstrings become a site (`make docs`)."""

from importlib import metadata
from pathlib import Path

from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]

project = "gatedcir"
copyright = "the gatedcir authors, MIT licence"  # noqa: A001
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
exclude_patterns = ["_build", "conf.py"]
html_theme = "furo"
html_title = "gatedcir"

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

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
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
# Types of other projects have no pages here, and an inventory of theirs would need a network.
nitpick_ignore_regex = [("py:.*", ".*")]
