"""The kinds of inputs that mutate_inputs.py changes: good files of each, and how they are read.

A reader gets the folder of the files. It may return, or raise a `UserError` or an `OSError`, of
which a command makes one sentence.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests_to_page

from gatedcir.errors import UserError
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse

Read = Callable[[Path], Any]


@dataclass(frozen=True)
class Kind:
    """A kind of input: a folder of good files, which of them are changed, and how it is read."""

    write: Callable[[Path], list[Path]]
    read: Read


def _write_annotations(layout: str) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        group = {"id": 0, "members": ["a", "b", "c"]}
        cirr = [
            {"pairid": n, "reference": "a", "target_hard": "b", "caption": "is red"}
            | {"img_set": group}
            for n in range(3)
        ]
        garment = {"candidate": "a", "target": "b", "captions": ["is red", "is long"]}
        circo = {"id": 0, "reference_img_id": 1, "target_img_id": 2, "gt_img_ids": [2, 3]}
        circo |= {"relative_caption": "is red", "semantic_aspects": ["addition"]}
        images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(4)]
        contents: dict[str, dict[str, Any]] = {
            "CIRR": {
                "cirr/captions/cap.rc2.val.json": cirr,
                "cirr/image_splits/split.rc2.val.json": {n: f"./dev/{n}.png" for n in "abc"},
            },
            "FashionIQ": {
                "captions/cap.dress.val.json": [garment] * 3,
                "image_splits/split.dress.val.json": ["a", "b", "c"],
            },
            "CIRCO": {
                "annotations/val.json": [circo],
                "image_info_unlabeled2017.json": {"images": images},
            },
        }
        (folder / "COCO2017_unlabeled").mkdir(exist_ok=True)
        return [_json(folder / name, content) for name, content in contents[layout].items()]

    return write


def _json(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def _read_annotations(dataset: str, folder: Path) -> None:
    """The check never ends early. The reader may refuse."""
    from gatedcir.benchmarks.base import Choice
    from gatedcir.benchmarks.load import read_queries
    from gatedcir.doctor.findings import Findings
    from gatedcir.doctor.forms import read_dataset
    from gatedcir.doctor.report import Report, as_html, as_text
    from gatedcir.doctor.triplets import check_part

    notes = Findings()
    parts, absent = read_dataset(dataset, folder, notes, images=True)
    for part in parts:
        check_part(part, notes)
    report = Report(dataset, folder, {}, absent, None, notes)
    assert as_text(report) and as_html(report)
    read_queries(dataset, folder, "val", choice=Choice(categories=("dress",)), images=True)


def _write_own(ending: str) -> Callable[[Path], list[Path]]:
    lines = {
        ".jsonl": '{"reference": "a.png", "target": ["b.png"], "text": "is red", "split": "val"}\n'
        '{"reference": "b.png", "target": "a.png", "text": ["x", "y"], "split": "val"}\n',
        ".csv": "reference,target,text,split\na.png,b.png,is red,val\nb.png,a.png,x|y,val\n",
    }

    def write(folder: Path) -> list[Path]:
        file = folder / f"mine{ending}"
        file.write_text(lines[ending], encoding="utf-8")
        return [file]

    return write


def _read_own(ending: str, folder: Path) -> None:
    _read_annotations(f"{folder}/mine{ending}", folder)


def _write_yaml(folder: Path) -> list[Path]:
    file = folder / "options.yaml"
    file.write_text(
        "dataset: CIRR\nlearning-rate: 1e-4\nnum-epochs: 3\nsave-best: false\n"
        "model:\n  visual-layers: [-1, -2]\n  gated-fusion: {strategy: gated, blocks: 2}\n"
    )
    return [file]


def _read_yaml(folder: Path) -> None:
    parse(Config, ["--config", f"{folder}/options.yaml"], description="")


def _write_words(folder: Path) -> list[Path]:
    file = folder / "words"
    words = ("--dataset", "CIRR", "--learning-rate", "1e-4", "--no-save-best")
    file.write_text("\n".join((*words, "--model.visual-layers", "-1", "-2")))
    return [file]


def _read_words(folder: Path) -> None:
    words = (folder / "words").read_text(encoding="utf-8", errors="replace").split("\n")
    # Other modules and files are not for a random name to open.
    words = [word for word in words if ":" not in word and "config" not in word]
    parse(Config, words, description="")


def _write_checkpoint(folder: Path) -> list[Path]:
    import torch

    from gatedcir.run_folder.checkpoint import Checkpoint, save

    weights = {"temp": torch.tensor(0.07), "a": torch.randn(3, 4)}
    sizes = {"vision_config": {"hidden_size": 8}}
    save(folder / "last.pt", Checkpoint(weights, sizes, "{}", {"dataset": "CIRR"}, {}, 1, {}))
    return [folder / "last.pt"]


def _read_checkpoint(folder: Path) -> None:
    from gatedcir.run_folder.checkpoint import load

    load(folder / "last.pt")


def _write_index(folder: Path) -> list[Path]:
    import numpy as np

    index = _index(folder)
    tokens = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    index.add([0, 1, 2], ["a", "b", "c"], tokens / np.linalg.norm(tokens, axis=-1, keepdims=True))
    return sorted(folder.glob("*.safetensors"))


def _read_index(folder: Path) -> None:
    """A damaged segment is left out, and is named."""
    import numpy as np

    index = _index(folder)
    index.search(np.full((1, 1, 4), 0.5, dtype=np.float32), 2)
    for said in index.damaged.values():
        raise UserError(said)


def _index(folder: Path) -> Any:
    from gatedcir.search.index import Form
    from gatedcir.search.segments import SegmentedIndex

    return SegmentedIndex(folder, Form(tokens=2, dim=4, precision="fp32"))


def _features(folder: Path) -> Any:
    import torch

    from gatedcir.features.folder import FeatureFolder

    return FeatureFolder(folder / "features", {"tower": "a"}, [(2, 3)], torch.float32)


def _images(folder: Path) -> dict[str, Path]:
    return {name: folder / f"{name}.png" for name in "abc"}


def _write_features(folder: Path) -> list[Path]:
    """Shards of two images and of one, and what the folder is."""
    import numpy as np
    from PIL import Image

    from gatedcir.data.sources import PixelSource
    from gatedcir.data.transforms import make_transform

    for number, file in enumerate(_images(folder).values()):
        Image.fromarray(np.full((4, 4, 3), 40 * number, np.uint8)).save(file)
    for names in ("ab", "abc"):
        images = {name: file for name, file in _images(folder).items() if name in names}
        _features(folder).fill(
            PixelSource(images, make_transform("clip", size=4)),
            lambda pixels: [pixels.flatten(2)[:, :, :2].transpose(1, 2).contiguous()],
            batch_size=2,
            num_workers=0,
            progress=False,
        )
    return sorted(file for file in (folder / "features").iterdir() if file.suffix != ".lock")


def _read_features(folder: Path) -> None:
    _features(folder).load(_images(folder))


def _write_images(folder: Path) -> list[Path]:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    files = [folder / f"image.{kind}" for kind in ("png", "jpg", "gif", "webp", "tif", "bmp")]
    for file in files:
        Image.fromarray(pixels).save(file)
    return files


def _read_images(folder: Path) -> None:
    from gatedcir.doctor.images import look

    for file in sorted(folder.iterdir()):
        for kind, detail in look(file).findings:
            raise UserError(f"{file}: {kind}, {detail}; replace it.")


def _write_answers(folder: Path) -> list[Path]:
    _write_annotations("CIRR")(folder)
    answers = {"version": "rc2", "metric": "recall", **{str(n): ["b", "c"] for n in range(3)}}
    return [_json(folder / "recall.json", answers)]


def _read_answers(folder: Path) -> None:
    from gatedcir.benchmarks.answers import read_answers
    from gatedcir.benchmarks.cirr import CIRR, parse_cirr

    read_answers([folder / "recall.json"], [parse_cirr(folder, "val")], CIRR.read_answers)


KINDS = {
    **{
        name: Kind(_write_annotations(name), partial(_read_annotations, name))
        for name in ("CIRR", "FashionIQ", "CIRCO")
    },
    "own.jsonl": Kind(_write_own(".jsonl"), partial(_read_own, ".jsonl")),
    "own.csv": Kind(_write_own(".csv"), partial(_read_own, ".csv")),
    "YAML": Kind(_write_yaml, _read_yaml),
    "flags": Kind(_write_words, _read_words),
    "checkpoint": Kind(_write_checkpoint, _read_checkpoint),
    "features": Kind(_write_features, _read_features),
    "index": Kind(_write_index, _read_index),
    "images": Kind(_write_images, _read_images),
    "answers": Kind(_write_answers, _read_answers),
    "requests": Kind(requests_to_page.write, requests_to_page.read),
}
