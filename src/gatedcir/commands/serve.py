"""Serve a page to search with: parse, open, serve."""

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from gatedcir.commands.judge import say_without_judge
from gatedcir.commands.main import COMMANDS
from gatedcir.commands.of_run import data_of
from gatedcir.errors import UserError
from gatedcir.options.config import DataConfig, Device
from gatedcir.options.parsing import parse
from gatedcir.options.recipe_config import RecipeConfig, Rerank, RerankedBy

if TYPE_CHECKING:
    from gatedcir.gallery.indexing import Indexing
    from gatedcir.models.weights.sources import Pretrained
    from gatedcir.page.site import Site

_MODELS = 2
_LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Options:
    """One or two models, and the images to search."""

    model_path: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A run, an exported folder, or any weights. Give the flag again for a second model, which
    answers the same queries next to the first. Without it: the model that made the index."""
    index: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """An index that gatedcir index made. Two models need one each, in the same order."""
    images: Path | None = None
    """A folder of images, in place of an index. It is indexed at each start, in a folder that is
    removed at the end. With --index the index is kept there. Without both: the images that the
    first model was validated on."""
    port: int = 7860
    """The port."""
    host: str = "127.0.0.1"
    """The address to listen at. The default is for this machine alone, 0.0.0.0 for all that can
    reach it: there is no password."""
    share_off: bool = False
    """Answer only requests to localhost, also if a proxy or a tunnel passes others on."""
    rerank: Rerank = RecipeConfig.rerank
    reranker: RerankedBy = None
    device: Device = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    """Open models and indexes, and serve until Ctrl-C."""
    options = parse(Options, argv, description=COMMANDS["serve"])
    _check(options)
    import uvicorn

    from gatedcir.page.connection import Connection
    from gatedcir.page.server import make_app

    with ExitStack() as stack:
        site = open_site(options, stack)
        say_without_judge(options.rerank, argv, judges=bool(site.judges))
        app = make_app(site, local=options.share_off)
        print(f"open http://{_shown(options.host)}:{options.port}", flush=True)
        uvicorn.run(
            app,
            host=options.host,
            port=options.port,
            http=Connection,
            log_level="warning",
            limit_concurrency=1000,
            timeout_keep_alive=15,
            server_header=False,
        )


def _shown(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "localhost") else host


def _check(options: Options) -> None:
    """Refuse what cannot be served, before anything large is imported."""
    if find_spec("gradio") is None:
        raise UserError("the page needs Gradio; install it with pip install 'gatedcir[page]'.")
    models, indexes = len(options.model_path), len(options.index)
    if not indexes and not models and options.images is None:
        raise UserError(
            "give --model-path RUN, which shows its validation images, or --index INDEX, which "
            "gatedcir index makes."
        )
    if options.images is not None and not models:
        raise UserError("--images needs a model to index them with; give --model-path MODEL.")
    if max(models, indexes) > _MODELS:
        raise UserError(f"the page shows {_MODELS} models at most; give as many.")
    if models and indexes and models != indexes:
        raise UserError(
            f"there are {models} models and {indexes} indexes; give an index for each model, in "
            "the same order."
        )
    if options.share_off and options.host not in _LOCAL:
        raise UserError(
            f"--share-off answers this machine alone, and --host {options.host} listens for "
            "others; leave one of them out."
        )
    _check_port(options)


def _check_port(options: Options) -> None:
    import socket

    if not 0 < options.port < 65536:
        raise UserError(f"--port {options.port} is no port; give 1 to 65535.")
    try:
        family = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((options.host, options.port))
    except OSError as error:
        raise UserError(
            f"{options.host}:{options.port} cannot be listened at ({error.strerror or error}); "
            "give another --port or --host."
        ) from None


def open_site(options: Options, stack: ExitStack) -> "Site":
    """The models with their indexes. `stack` closes them, and removes what was made for now."""
    from gatedcir.gallery.indexing import Indexing
    from gatedcir.gallery.retriever import Retriever
    from gatedcir.page.engine import Engine
    from gatedcir.page.shelf import UPLOADS, Kept
    from gatedcir.page.site import Site

    uploads = Kept[bytes](UPLOADS, len)
    engines = []
    validated: list[Path] = []
    found = None
    if not options.index and options.images is None:
        validated, found = _validated_on(options.model_path[0])
    for place in range(max(len(options.model_path), len(options.index))):
        retriever = None
        if options.model_path:
            name = options.model_path[place]
            retriever = Retriever.from_pretrained(
                name,
                device=options.device,
                found=found if place == 0 else None,
                reranker=options.reranker,
            )
        if options.index:
            index = options.index[place]
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gatedcir-"))
            index = Path(folder, "index")
        if options.images is not None or validated:
            assert retriever is not None
            with Indexing.at(index, retriever) as indexing:
                _index(indexing, options.images, validated)
        engines.append(
            Engine(
                index,
                retriever,
                uploads=uploads,
                device=options.device,
                rerank=options.rerank,
                reranker=options.reranker,
            )
        )
    site = Site(engines, uploads)
    stack.callback(site.close)
    return site


def _index(indexing: "Indexing", images: Path | None, validated: list[Path]) -> None:
    """Index a folder, or else some files. What cannot be read is said and left out.

    Raises:
        UserError: none of them can be read.
    """
    report = indexing.add(validated) if images is None else indexing.sync(images)
    if not report.broken:
        return
    if not len(indexing.target.catalogue.searchable()):
        raise UserError(f"{report.broken_files()}; name a folder of images.")
    print(report.broken_files(), file=sys.stderr)


def _validated_on(model: str) -> "tuple[list[Path], Pretrained]":
    """The files of the validation images of a run's dataset, and the run as it was read.

    Raises:
        UserError: the model is no run that was trained; the dataset is not where it was.
    """
    from gatedcir.assemble.data import load_data
    from gatedcir.commands import evaluate
    from gatedcir.models.weights.sources import load
    from gatedcir.options.parsing import from_dict

    instead = "give --images FOLDER, or --index INDEX, which gatedcir index makes."
    found = load(model)
    if found.run is None or found.run.epoch == 0:
        raise UserError(f"{model} was validated on no dataset; {instead}")
    data = from_dict(DataConfig, data_of(found, Path(model), evaluate.Options))
    try:
        [splits] = load_data(data, "val")
    except UserError as error:
        reason = str(error).partition(";")[0].rstrip(".")
        raise UserError(
            f"the images that {model} was validated on cannot be read ({reason}); {instead}"
        ) from None
    return sorted({path for split in splits for path in split.paths.values()}), found
