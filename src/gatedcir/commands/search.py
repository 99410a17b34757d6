"""Search an index of photos: parse, open, search, print."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatedcir.commands.judge import say_without_judge
from gatedcir.commands.main import COMMANDS
from gatedcir.errors import UserError, plain
from gatedcir.options.config import Device, ModelPath
from gatedcir.options.parsing import parse
from gatedcir.options.recipe_config import RecipeConfig, Rerank, RerankedBy
from gatedcir.outputs import check_file_to_write


@dataclass(frozen=True)
class Options:
    """The index, and the query."""

    index: Path
    """The index, a folder that gatedcir index made."""
    image: Path | None = None
    """The image to start from."""
    text: str | None = None
    """How to change it. An image alone or a text alone is a query too."""
    k: int = 10
    """How many images. Also -k."""
    start: int = 0
    """How many of the best images to leave out, for the next page."""
    where: tuple[str, ...] = ()
    """Conditions on the metadata: field=value, field=one,other or field=low..high. All of them
    must hold."""
    json: bool = False
    """Print a JSON list of path, score, rank and metadata."""
    html: Path | None = None
    """File for a page with the pictures. It needs no other file."""
    open: bool = False
    """Show that page in the browser."""
    model_path: ModelPath | None = None
    """The model that made the index, if it has moved since."""
    rerank: Rerank = RecipeConfig.rerank
    reranker: RerankedBy = None
    device: Device = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the best images of a query, or write a page of them."""
    options = parse(Options, argv, description=COMMANDS["search"])
    if options.image is None and options.text is None:
        raise UserError("give --image FILE, --text TEXT, or both.")
    if options.k < 1 or options.start < 0:
        raise UserError(
            f"-k is {options.k} and --start {options.start}; give 1 or more and 0 or more."
        )
    if options.html is not None:
        check_file_to_write(options.html, "--html", "page")
    from gatedcir.gallery.gallery import Gallery, as_values
    from gatedcir.gallery.place import read_manifest
    from gatedcir.gallery.retriever import Retriever

    where = conditions_of(options.where) or None
    name = options.model_path or read_manifest(options.index).model
    retriever = Retriever.from_pretrained(name, device=options.device, reranker=options.reranker)
    gallery = Gallery.open(options.index, retriever)
    say_without_judge(options.rerank, argv, judges=retriever.judges)
    hits = gallery.search(
        options.image,
        options.text,
        k=options.k,
        start=options.start,
        where=where,
        rerank=options.rerank,
    )
    if options.html is not None or options.open:
        _show(options, hits)
    if options.json:
        print(json.dumps(as_values(hits), indent=2))
    elif options.html is None and not options.open:
        for hit in hits:
            print(f"{hit.rank:>4}  {hit.score:.4f}  {plain(str(hit.path))}")
        if not hits:
            print("nothing was found")


def _show(options: Options, hits: list) -> None:
    """Write the page, and open it if asked to."""
    import sys
    import tempfile
    import webbrowser

    from gatedcir.files import write_text
    from gatedcir.gallery.page import page_of

    file = options.html
    if file is None:
        file = Path(tempfile.mkdtemp(prefix="gatedcir-")) / "search.html"
    write_text(file, page_of(options.image, options.text, hits))
    print(file, file=sys.stderr if options.json else sys.stdout)
    if options.open:
        webbrowser.open(file.absolute().as_uri())


def conditions_of(words: Sequence[str]) -> dict[str, Any]:
    """`field=value`, `field=one,other` and `field=low..high` as conditions of a search.

    >>> conditions_of(["category=dress", "price=10..50", "size=36,38"])
    {'category': ['dress'], 'price': (10, 50), 'size': ['36', 36, '38', 38]}
    >>> conditions_of(["price=..9.5"])
    {'price': (None, 9.5)}

    Raises:
        UserError: a condition is written in another way.
    """
    found: dict[str, Any] = {}
    for word in words:
        field, equals, wanted = word.partition("=")
        if not field or not equals or not wanted:
            raise UserError(
                f"--where {word} is no condition; give field=value, field=one,other or "
                "field=low..high."
            )
        low, dots, high = wanted.partition("..")
        if dots:
            found[field] = tuple(_meanings(end)[-1] if end else None for end in (low, high))
        else:
            found[field] = [value for text in wanted.split(",") for value in _meanings(text)]
    return found


def _meanings(text: str) -> list[Any]:
    """What a value may mean: the text, and also the number or the truth that it is written as."""
    from gatedcir.gallery.photos import NUMBER, number

    if text in ("true", "false"):
        return [text, text == "true"]
    return [text, number(text)] if NUMBER.fullmatch(text) else [text]
