"""An index -> the same index of another kind. Its features are copied, and nothing is encoded.

An unfinished copy keeps what it is of in `copying.json`, and becomes an index at its end. The same
command goes on with it.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gatedcir.errors import UserError, check_folder_to_write, reason_of
from gatedcir.files import check_was_read, parse_json, write_json
from gatedcir.gallery.place import (
    CATALOGUE,
    COPYING,
    FEATURES,
    MANIFEST,
    IndexFolder,
    check_kind,
    read_manifest,
)
from gatedcir.progress import bar
from gatedcir.run_folder.claim import LOCK, Claim
from gatedcir.search.index import Settings
from gatedcir.search.ivfpq import Lists
from gatedcir.search.kinds import KINDS

_AT_ONCE = 2048  # images


def copy_index(
    source: Path,
    target: Path,
    *,
    kind: str | None = None,
    precision: str | None = None,
    settings: Settings | None = None,
) -> int:
    """Copy an index, and return how many images had to be copied.

    Args:
        source: the index. It is only read.
        target: a new folder, or one with an unfinished copy of the same index.
        kind: of the copy. None: that of the settings, or of the index.
        precision: of the copy. None: that of the index.
        settings: of the kind of the copy. Without them, a copy of the kind large lists features as
            the index does, or by the defaults.

    Raises:
        UserError: there is no index; the target holds something else, or is in the index or around
            it; the index is changed meanwhile; a part of it is damaged.
    """
    found = read_manifest(source)
    _check_apart(source, target)
    check_folder_to_write(target, "the index")
    kind = kind or (found.kind if settings is None else settings.kind)
    if settings is None and kind == Lists.kind:
        settings = Lists.read(source / FEATURES)
    check_kind(kind, settings)
    manifest = replace(found, kind=kind, precision=precision or found.precision)
    noted = {} if settings is None else settings.noted()
    what = {"from": str(source.absolute()), "settings": noted, **asdict(manifest)}
    claim = Claim(target)
    try:
        begun = _is_begun(target, what)
        before = IndexFolder.open(source, found)
        try:
            if settings is not None:
                settings.write(target / FEATURES)
            stored = KINDS[kind].open(target / FEATURES, manifest.form, writable=True)
            try:
                if not begun:
                    write_json(target / COPYING, what)
                copied = _copy(before, stored)
            finally:
                stored.close()
            before.catalogue.copy(target / CATALOGUE)
        finally:
            before.close()
        write_json(target / MANIFEST, asdict(manifest))
        (target / COPYING).unlink()
    finally:
        claim.release()
    return copied


def _check_apart(source: Path, target: Path) -> None:
    """UserError if one of two folders is the other one, or is in it."""
    one, other = source.resolve(), target.resolve()
    if one in (other, *other.parents) or other in one.parents:
        raise UserError(
            f"{target} is the index {source} itself, or is in it or around it; name a new folder "
            "elsewhere."
        )


def _is_begun(target: Path, what: dict[str, Any]) -> bool:
    """Whether a folder holds such a copy already. UserError if it holds something else."""
    if (target / COPYING).exists():
        try:
            before = dict(parse_json((target / COPYING).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            check_was_read(target / COPYING, error)
            raise UserError(
                f"{target / COPYING} is damaged ({reason_of(error)}); delete {target}, and copy "
                "the index again."
            ) from None
        if before != what:
            raise UserError(
                f"{target} holds an unfinished copy of {before.get('from')} with other options; "
                "repeat the command that began it, or name a new folder."
            )
        return True
    if (target / MANIFEST).exists():
        raise UserError(f"{target} is an index already; name a new folder.")
    own = (LOCK, COPYING, FEATURES)  # maybe of a process that was killed at once
    if any(not entry.name.startswith(own) for entry in target.iterdir()):
        raise UserError(f"{target} holds other files; name a new folder.")
    return False


def _copy(before: IndexFolder, stored: Any) -> int:
    """Copy the features of all images that are not there yet. UserError if the index changes."""
    version, wanted, there = before.catalogue.version(), before.stored.entries(), stored.entries()
    old = [number for number, digest in there.items() if wanted.get(number) != digest]
    if old:  # the index has changed since the copy was begun
        stored.remove(old)
    numbers = sorted(number for number, digest in wanted.items() if there.get(number) != digest)
    with bar(total=len(numbers), desc="copying", unit="img") as shown:
        for start in range(0, len(numbers), _AT_ONCE):
            some = numbers[start : start + _AT_ONCE]
            features = before.stored.features(some)
            stored.add(some, [wanted[number] for number in some], features)
            shown.update(len(some))
    stored.save()
    if before.catalogue.version() != version:
        raise UserError(
            f"the index {before.path} was changed while it was copied; repeat the command, which "
            "goes on."
        )
    return len(numbers)
