"""Make, change and describe an index of photos: parse, open, write, report."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from gatedcir.commands.main import COMMANDS
from gatedcir.errors import UserError
from gatedcir.options.config import Device, ModelPath
from gatedcir.options.marks import Range
from gatedcir.options.parsing import parse

if TYPE_CHECKING:
    from gatedcir.gallery.indexing import Indexing
    from gatedcir.gallery.object_store import ObjectStore
    from gatedcir.search.index import Settings
    from gatedcir.search.ivfpq import Lists


_SHOWN = 10  # groups of duplicates


@dataclass(frozen=True)
class Options:
    """Which images, which model, and where the index is."""

    output: Annotated[Path, tyro.conf.arg(aliases=("--index",))]
    """The index, a folder. It is made if it is missing."""
    model_path: ModelPath | None = None
    """The model: a run's folder, a checkpoint file, or other weights, such as tiny. Without it: the
    model that made the index."""
    images: Path | None = None
    """A folder of images. Afterwards the index shows what this folder and its sub-folders hold. Or
    a .parquet file whose column path names images."""
    fetch: str | None = None
    """In place of --images, the address of an object store that fsspec opens, such as
    s3://shop/photos. Its images are copied into the index's folder."""
    watch_deleted: bool = False
    """Take files that have vanished from --images out of the index. Without it they stay, because a
    disk that is not mounted looks the same."""
    metadata: Path | None = None
    """A .csv or .jsonl file of what is known about the images. Its column path names them."""
    add: tuple[Path, ...] = ()
    """Files and folders to add."""
    remove: tuple[Path, ...] = ()
    """Files and folders to remove from the index. The files themselves stay."""
    copy_of: Path | None = None
    """An index to copy into --output, a new folder, as another --kind or --precision. Nothing is
    encoded."""
    save_snapshot: Path | None = None
    """Write the collection of an index of the kind server to this file."""
    load_snapshot: Path | None = None
    """Make the collection, which the server has lost, from such a file."""
    compact: bool = False
    """Delete the features of removed files, and give their room back."""
    info: bool = False
    """Print what the index is and holds. Every feature is read and compared with its checksum."""
    json: bool = False
    """Print --info as JSON."""
    skip_broken: bool = False
    """Go on without files that cannot be read. They are counted and named."""
    kind: Literal["exact", "large", "embedded", "server"] | None = None
    """How features are kept. exact: files of this project, which several processes can read.
    large: the same, with codes of the features in lists, for 10,000 images and more. embedded: the
    Qdrant engine in this process. server: a Qdrant server or cluster. Without it:
    that of the index, else exact."""
    nlist: Annotated[int, Range(1)] | None = None
    """Inverted lists of a new index of the kind large. Without it: about the square root of the
    number of features, a power of two."""
    nprobe: Annotated[int, Range(1)] | None = None
    """Lists that a search of such an index looks into. Without it: a quarter of them."""
    pq_bytes: Annotated[int, Range(1)] = 64
    """Bytes of a feature's code in these lists."""
    pool_factor: Annotated[int, Range(1)] = 1
    """Features of an image that become one in these lists, by k-means. 4 makes 32 into 8."""
    index_url: str | None = None
    """Address of the server of a new index, such as http://localhost:6333. The kind is then server.
    The server's key comes from the environment variable QDRANT_API_KEY."""
    index_shards: Annotated[int, Range(1)] = 1
    """Parts of a new index on a server, spread over the machines of a cluster."""
    index_replicas: Annotated[int, Range(1)] = 1
    """Copies of each of these parts."""
    precision: Literal["fp16", "fp32"] | None = None
    """How exactly features are kept. Without it: that of the index, else fp16."""
    num_workers: int = 2
    """Threads that read images."""
    engine: Literal["process", "ray"] = "process"
    """Where images are encoded. process: here. ray: on all machines of a Ray cluster, that of
    RAY_ADDRESS or this machine."""
    ray_workers: Annotated[int | None, Range(1)] = None
    """Models of --engine ray. Without it: one for each GPU of the cluster, or else each core."""
    device: Device = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    """Bring an index up to date, and say what has changed."""
    options = parse(Options, argv, description=COMMANDS["index"])
    if options.images is not None and options.fetch is not None:
        raise UserError("--images and --fetch both say what the index shows; give one of them.")
    shown = options.images is not None or options.fetch is not None
    writes = bool(shown or options.add or options.remove or options.compact)
    given = {name: work for name, work in _AS_IT_IS.items() if getattr(options, name) is not None}
    if not writes and not given and not options.info:
        raise UserError(
            "give --images FOLDER, or one of --fetch, --add, --remove, --compact, --copy-of, "
            "--save-snapshot, --load-snapshot and --info."
        )
    if given and (writes or len(given) > 1 or options.model_path is not None):
        raise UserError(
            f"--{next(iter(given)).replace('_', '-')} takes an index as it is; leave all other "
            "changes and --model-path out."
        )
    if options.index_url is None and (options.index_shards, options.index_replicas) != (1, 1):
        raise UserError("--index-shards and --index-replicas need a server; give --index-url too.")
    if options.kind != "large" and _lists(options) is not None:
        raise UserError(
            "--nlist, --nprobe, --pq-bytes and --pool-factor are for a new index of the kind "
            "large; give --kind large too."
        )
    if options.ray_workers is not None and options.engine != "ray":
        raise UserError("--ray-workers is for --engine ray; give that too.")
    if options.watch_deleted and not shown:
        raise UserError("--watch-deleted looks at a folder; give --images too.")
    if options.metadata is not None and not (shown or options.add):
        raise UserError("--metadata describes images; give --images or --add too.")
    if writes or given:
        try:
            for work in given.values() or [_write]:
                work(options)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped; what was encoded is kept in {options.output}, and the same command goes "
                "on."
            ) from None
    if options.info:
        _describe(options)


def _write(options: Options) -> None:
    if options.images is not None:
        from gatedcir.gallery.photos import find_photos

        find_photos(options.images)  # a wrong folder is said before the model is opened
    store = None
    if options.fetch is not None:
        from gatedcir.gallery.object_store import ObjectStore

        store = ObjectStore.open(options.fetch)
    from gatedcir.gallery.indexing import Indexing
    from gatedcir.gallery.photos import read_metadata
    from gatedcir.gallery.place import read_manifest
    from gatedcir.gallery.retriever import Retriever

    if options.engine == "ray":
        from gatedcir.gallery.ray_engine import ray_module

        ray_module()  # both are looked at before there is an index
    if options.metadata is not None:
        read_metadata(options.metadata)
    settings = _settings(options)
    name: Any = options.model_path
    if name is None:
        if not options.output.is_dir() or not any(options.output.iterdir()):
            raise UserError(f"{options.output} is a new index; give --model-path MODEL.")
        name = read_manifest(options.output).model
    retriever = Retriever.from_pretrained(name, device=options.device)
    with Indexing.at(
        options.output,
        retriever,
        kind=options.kind,
        precision=options.precision,
        settings=settings,
        engine=options.engine,
        workers=options.ray_workers,
    ) as index:
        _change(index, options, store)


def _copy(options: Options) -> None:
    from gatedcir.gallery.copying import copy_index

    assert options.copy_of is not None
    count = copy_index(
        options.copy_of,
        options.output,
        kind=options.kind,
        precision=options.precision,
        settings=_settings(options),
    )
    print(f"{options.output}: {count} images copied from {options.copy_of}, none encoded")


def _save_snapshot(options: Options) -> None:
    from gatedcir.search.snapshots import save_snapshot

    assert options.save_snapshot is not None
    size = save_snapshot(_on_server(options), options.save_snapshot)
    print(f"{options.save_snapshot}: {size / 1e6:.1f} MB")


def _load_snapshot(options: Options) -> None:
    from gatedcir.search.snapshots import load_snapshot

    assert options.load_snapshot is not None
    load_snapshot(_on_server(options), options.load_snapshot)
    print(f"{options.output}: its collection was made from {options.load_snapshot}")


_AS_IT_IS = {
    "copy_of": _copy,
    "save_snapshot": _save_snapshot,
    "load_snapshot": _load_snapshot,
}
"""Options that take an index as it is -> what they do."""


def _on_server(options: Options) -> Path:
    """The features' folder of an index on a server. UserError if it is of another kind."""
    from gatedcir.gallery.place import FEATURES, read_manifest

    kind = read_manifest(options.output).kind
    if kind != "server":
        raise UserError(
            f"the index {options.output} is of the kind {kind}, and snapshots are for server; copy "
            "its folder."
        )
    return options.output / FEATURES


def _settings(options: Options) -> "Settings | None":
    """What only the kind of a new index asks for. A server answers."""
    from gatedcir.search.server import Server

    if options.index_url is None:
        return _lists(options)
    if options.kind not in (None, Server.kind):
        raise UserError(f"--kind {options.kind} has no --index-url; leave one of them out.")
    copies = {"shards": options.index_shards, "replicas": options.index_replicas}
    server = Server.new(options.index_url, **copies)
    server.reach()
    return server


def _lists(options: Options) -> "Lists | None":
    """How a new index of the kind large lists features. None: by the defaults."""
    from gatedcir.search.ivfpq import Lists

    found = Lists(options.nlist, options.nprobe, options.pq_bytes, options.pool_factor)
    return None if found == Lists() else found


def _change(index: "Indexing", options: Options, store: "ObjectStore | None") -> None:
    settings: dict[str, Any] = {"metadata": options.metadata, "num_workers": options.num_workers}
    if options.remove:
        index.remove(options.remove)
    images = options.images
    if store is not None:
        images = store.copy_to(
            options.output,
            num_workers=options.num_workers,
            watch_deleted=options.watch_deleted,
        )
    if images is not None:
        index.sync(images, watch_deleted=options.watch_deleted, **settings)
    if options.add:
        index.add(options.add, **settings)
    report = index.report
    print(f"{options.output}: {report}")
    if options.compact:
        print(f"compacted: the features of {index.compact()} images were deleted")
    if report.missing:
        print(f"{report.missing_files()}; --watch-deleted takes them out")
    if report.counts["duplicates"]:
        _list_duplicates(index)
    if report.broken and options.skip_broken:
        print(report.broken_files())
    report.check(skip_broken=options.skip_broken, way_out="pass --skip-broken")


def _list_duplicates(index: "Indexing") -> None:
    found = index.target.catalogue.duplicates()
    for paths in found[:_SHOWN]:
        print(f"stored once: {', '.join(map(str, paths))}")
    if len(found) > _SHOWN:
        print(f"and {len(found) - _SHOWN} more, which --info --json lists")


def _describe(options: Options) -> None:
    from gatedcir.gallery.gallery import info_of
    from gatedcir.gallery.place import IndexFolder, read_manifest

    folder = IndexFolder.open(options.output, read_manifest(options.output))
    found = info_of(folder, check=True)
    folder.close()
    if options.json:
        print(json.dumps(found, indent=2))
        return
    duplicates = found.pop("duplicates")
    found["duplicates"] = sum(len(paths) - 1 for paths in duplicates)
    for name, value in found.items():
        print(f"{name}: {', '.join(value) or 'none' if isinstance(value, list) else value}")
