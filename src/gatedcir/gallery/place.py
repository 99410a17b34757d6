"""The folder of an index: which model made it, its catalogue, its features."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from gatedcir.errors import UserError, reason_of
from gatedcir.files import check_only_files, check_was_read, parse_json, write_json
from gatedcir.gallery.identity import PARTS
from gatedcir.gallery.retriever import Retriever
from gatedcir.run_folder.claim import LOCK
from gatedcir.search.catalogue import Catalogue
from gatedcir.search.index import Form, Settings, StoredIndex
from gatedcir.search.kinds import KINDS
from gatedcir.search.segments import PRECISIONS
from gatedcir.search.server import Server

FORMAT = 1
MANIFEST, CATALOGUE, FEATURES = "index.json", "catalogue.sqlite", "features"
COPYING = "copying.json"  # of a copy that is not finished


@dataclass(frozen=True)
class Manifest:
    """What an index is."""

    model: str
    """What its model was opened by."""
    identity: dict[str, str]
    """The model's, as `Retriever.identity`."""
    kind: str
    tokens: int
    dim: int
    precision: str
    format: int = FORMAT

    def __post_init__(self) -> None:
        """ValueError if a value is none that an index has."""
        if not isinstance(self.identity, dict) or set(self.identity) != set(PARTS):
            raise ValueError("what it knows of its model has another form")
        if self.precision not in PRECISIONS:
            raise ValueError(f"there is no precision {self.precision!r}")

    @property
    def form(self) -> Form:
        """Shape and precision of the features."""
        return Form(self.tokens, self.dim, self.precision)

    def check(self, folder: Path, retriever: Retriever) -> None:
        """UserError if the model is another one, or if its features have another form."""
        for name, wanted in self.identity.items():
            given = retriever.identity[name]
            if given != wanted:
                raise UserError(
                    f"the index {folder} was made by {self.model} with other {name} ({wanted}) "
                    f"than {retriever.name} has ({given}); search it with its own model, or index "
                    "into another folder."
                )
        if self.form != retriever.form(self.precision):
            raise _damaged(folder / MANIFEST, "its model has features of another form")


def read_manifest(folder: Path) -> Manifest:
    """What the index in a folder is.

    Raises:
        UserError: there is none, it is damaged, or it has the format of another version.
    """
    file = folder / MANIFEST
    if (folder / COPYING).is_file():
        raise UserError(
            f"the copy of an index into {folder} is not finished; repeat the gatedcir index "
            "command that began it, which goes on."
        )
    if not file.is_file():
        raise UserError(f"there is no index in {folder}; make one with gatedcir index.")
    try:
        content = dict(parse_json(file.read_text(encoding="utf-8")))
        if content["format"] != FORMAT:
            raise UserError(
                f"the index {folder} has format {content['format']}, and this version reads format "
                f"{FORMAT}; use the gatedcir that wrote it, or index the folder again."
            )
        return Manifest(**content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        check_was_read(file, error)
        raise _damaged(file, reason_of(error)) from None


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(
        f"{file} is damaged ({reason}); put a copy back, or index into another folder."
    )


@dataclass(frozen=True)
class IndexFolder:
    """An opened index."""

    path: Path
    manifest: Manifest
    stored: StoredIndex
    catalogue: Catalogue

    @classmethod
    def open(cls, path: Path, manifest: Manifest, *, writable: bool = False) -> Self:
        """The parts of an index. UserError if a part cannot be opened."""
        if manifest.kind not in KINDS:
            raise UserError(
                f"the index {path} is of the kind {manifest.kind!r}, which this version lacks; it "
                f"has {', '.join(KINDS)}."
            )
        features = path / FEATURES
        inner = [place for place in features.rglob("*") if place.is_dir()]
        check_only_files(path, features, *inner)
        stored = KINDS[manifest.kind].open(features, manifest.form, writable=writable)
        return cls(path, manifest, stored, Catalogue(path / CATALOGUE, writable=writable))

    def close(self) -> None:
        """Give files and locks back."""
        self.catalogue.close()
        self.stored.close()


def new_manifest(
    folder: Path,
    retriever: Retriever,
    *,
    kind: str | None,
    precision: str | None,
    settings: Settings | None = None,
) -> Manifest:
    """The manifest of the index in a folder, written there if it is new.

    Args:
        folder: an index, or a folder that is new or empty.
        retriever: the model.
        kind: exact, large, embedded or server. None: as it is, or that of the settings, or exact.
        precision: fp16 or fp32. None: as it is, or fp16.
        settings: of a new index of a kind that has some.

    Raises:
        UserError: the folder holds something else, or an index that differs.
    """
    if (folder / MANIFEST).exists():
        found = read_manifest(folder)
        found.check(folder, retriever)
        for name, wanted in (("kind", kind), ("precision", precision)):
            if wanted not in (None, there := getattr(found, name)):
                raise UserError(
                    f"the index {folder} has the {name} {there}, not {wanted}; leave --{name} out, "
                    "or index into another folder."
                )
        if settings is not None:
            raise UserError(
                f"the index {folder} is there already; leave out {settings.meant}, or index into "
                "another folder."
            )
        return found
    kind = kind or ("exact" if settings is None else settings.kind)
    check_kind(kind, settings)
    own = (LOCK, FEATURES, MANIFEST)  # maybe of a process that was killed at once
    if any(not entry.name.startswith(own) for entry in folder.iterdir()):
        raise UserError(f"{folder} holds other files and no index; name a new folder.")
    form = retriever.form(precision or "fp16")
    found = Manifest(retriever.name, retriever.identity, kind, *form)
    if settings is not None:
        settings.write(folder / FEATURES)
    KINDS[found.kind].open(folder / FEATURES, form, writable=True).close()
    write_json(folder / MANIFEST, asdict(found))
    return found


def check_kind(kind: str, settings: Settings | None) -> None:
    """UserError if there is no such kind, or if it and the settings do not go together."""
    if kind not in KINDS:
        raise UserError(f"there is no kind {kind!r} of index; choose one of {', '.join(KINDS)}.")
    if settings is not None and settings.kind not in (kind, Server.kind):
        raise UserError(
            f"a new index of the kind {kind} does not ask {settings.meant}; leave it out, or "
            f"choose the kind {settings.kind}."
        )
    if (kind == Server.kind) != isinstance(settings, Server):
        raise UserError(
            "a new index of the kind server needs the address of its server, and no other kind has "
            "one; give both or neither."
        )
