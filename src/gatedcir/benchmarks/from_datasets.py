"""Triplets in the form of Hugging Face's `datasets` -> files of your own (the extra `datasets`)."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from gatedcir.benchmarks.own_lines import KEYS
from gatedcir.errors import UserError, reason_of

IMAGES = "images"
_SPLITS = {
    "train": "train",
    **dict.fromkeys(("val", "validation", "valid", "dev"), "val"),
    "test": "test",
}
_OF_IMAGES = ("reference", "target", "candidates", "negatives")


def write_splits(place: str, folder: Path, *, output: Path) -> Iterator[str]:
    """Write a file of triplets for each split, and the images that the data hold.

    Args:
        place: a folder of `save_to_disk`, a .parquet file, a folder that `load_dataset` reads, or
            a name of the hub. Columns have the names of the keys of your own triplets.
        folder: to write to, which is there.
        output: what that folder will be called. Paths of images start there.

    Yields:
        A line for each split.

    Raises:
        UserError: it cannot be read, or a split or a column has another name.
    """
    for name, rows in _load(place).items():
        if name not in _SPLITS:
            raise UserError(
                f"{place} has a split {name!r}; call splits train, validation and test."
            )
        split = _SPLITS[name]
        known = [column for column in rows.column_names if column in KEYS and column != "split"]
        if missing := {"reference", "text"} - set(known):
            raise UserError(
                f"{place} has no column {' and '.join(sorted(missing))} ({name} has "
                f"{', '.join(rows.column_names)}); rename its columns."
            )
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for row in rows.select_columns(known):
                line = {
                    key: _named(value, folder, output, place) if key in _OF_IMAGES else value
                    for key, value in row.items()
                    if value is not None or key == "text"
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        left = sorted(set(rows.column_names) - set(known))
        yield f"{len(rows)} queries" + (f", without the columns {', '.join(left)}" if left else "")


def _load(place: str) -> Mapping[str, Any]:
    """Rows by split, with images as they are in their files."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            "--from-datasets needs datasets, which is not installed; run pip install "
            "'gatedcir[datasets]'."
        ) from None
    path = Path(place)
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            found = datasets.load_from_disk(place)
        elif path.is_file():
            found = datasets.load_dataset("parquet", data_files=place)
        else:
            found = datasets.load_dataset(place)
    except Exception as error:  # the library's errors have no common base
        raise UserError(
            f"{place} cannot be read by datasets ({reason_of(error)}); check the name or the path."
        ) from None
    parts = found if isinstance(found, datasets.DatasetDict) else {"train": found}
    return {name: part.cast(_undecoded(datasets, part.features)) for name, part in parts.items()}


def _undecoded(datasets: Any, features: Any) -> Any:
    """The same columns, with images as bytes or paths."""

    def one(feature: Any) -> Any:
        if isinstance(feature, datasets.Image):
            return datasets.Image(decode=False)
        inner = getattr(feature, "feature", None)
        return type(feature)(one(inner)) if isinstance(inner, datasets.Image) else feature

    return datasets.Features({name: one(feature) for name, feature in features.items()})


def _named(value: Any, folder: Path, output: Path, place: str) -> Any:
    """The path of an image, or of each of a list. Bytes are written to a file first."""
    if isinstance(value, list):
        return [_named(one, folder, output, place) for one in value]
    if isinstance(value, dict) and value.get("bytes") is not None:
        content = value["bytes"]
        try:
            with Image.open(io.BytesIO(content)) as picture:
                ending = (picture.format or "img").lower()
        except OSError:
            ending = "img"  # what cannot be read is named by gatedcir check
        name = f"{IMAGES}/{hashlib.sha256(content).hexdigest()[:32]}.{ending}"
        if not (folder / name).exists():
            (folder / IMAGES).mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        return name
    path = value["path"] if isinstance(value, dict) else value
    base = Path(place) if Path(place).is_dir() else Path(place).parent
    return Path(os.path.relpath((base / path).absolute(), output.absolute())).as_posix()
