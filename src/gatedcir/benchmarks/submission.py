"""The JSON files of the two test servers, checked against their rules before they are written."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from gatedcir.errors import UserError
from gatedcir.files import whole_files

RECALL_NAMES, SUBSET_NAMES = 50, 3
MOST_BYTES = 5_000_000
FILES = {"recall": "recall_submission.json", "recall_subset": "recall_subset_submission.json"}


def write_rankings(
    folder: Path, split: str, rankings: Mapping[str, Sequence[Mapping[str, object]]]
) -> list[Path]:
    """Write FashionIQ's answers, `CATEGORY.SPLIT.pred.json` for each category; their paths.

    Args:
        folder: made if it is not there.
        split: its name.
        rankings: category -> the queries in the order of the captions file, each with its
            candidate, its captions and its ranking (names, best first).

    Source: start_kit/eval.py of github.com/XiaoxiaoGuo/fashion-iq, which ranks the whole gallery.
    """
    return _write_all(
        folder,
        {
            f"{category}.{split}.pred.json": json.dumps(entries).encode()
            for category, entries in rankings.items()
        },
    )


def write_submission(
    folder: Path,
    *,
    pair_ids: Sequence[str],
    references: Sequence[str],
    retrieved: Sequence[Sequence[str]],
    group_retrieved: Sequence[Sequence[str]],
) -> list[Path]:
    """Write CIRR's two files, or neither; their paths.

    Args:
        folder: made if it is not there.
        pair_ids: one a query.
        references: one a query; must not be in its own lists.
        retrieved: names, best first, at least 50 a query.
        group_retrieved: names of the image group, best first, at least 3 a query.

    Raises:
        UserError: the answers break a rule of the server.
    """
    repeated = [pair_id for pair_id, count in Counter(pair_ids).items() if count > 1]
    if repeated:
        raise UserError(
            f"two queries share the pair id {repeated[0]}; check the split's captions file."
        )
    encoded: dict[str, bytes] = {}
    for metric, lists, length in (
        ("recall", retrieved, RECALL_NAMES),
        ("recall_subset", group_retrieved, SUBSET_NAMES),
    ):
        rankings = {p: list(names[:length]) for p, names in zip(pair_ids, lists, strict=True)}
        check_rankings(rankings, dict(zip(pair_ids, references, strict=True)), length=length)
        content = {"version": "rc2", "metric": metric, **rankings}
        encoded[FILES[metric]] = _encoded(content)
    return _write_all(folder, encoded)


def _write_all(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files of a folder, all or none; their paths."""
    files = [folder / name for name in contents]
    with whole_files(*files) as unfinished:
        for name, content in contents.items():
            (unfinished / name).write_bytes(content)
    return files


def check_rankings(
    rankings: dict[str, list[str]], references: dict[str, str], *, length: int
) -> None:
    """UserError unless every query has `length` different names, its own reference not one."""
    for pair_id, names in rankings.items():
        if len(names) != length or len(set(names)) != length:
            raise UserError(
                f"pair {pair_id} has {len(set(names))} different names where the server wants "
                f"{length}; the gallery or the image group is too small."
            )
        if references[pair_id] in names:
            raise UserError(f"pair {pair_id} ranks its own reference {references[pair_id]}.")


def _encoded(content: Mapping[str, object]) -> bytes:
    encoded = json.dumps(content, separators=(",", ":")).encode()
    if len(encoded) > MOST_BYTES:
        raise UserError(
            f"the submission takes {len(encoded)} bytes, more than the server's {MOST_BYTES}; "
            "submit fewer queries."
        )
    return encoded
