"""A folder with a model as ONNX graphs, its tokenizer, and what an index must know of it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gatedcir.assemble.data import make_transform
from gatedcir.assemble.model import trained_model
from gatedcir.data.transforms import Transform
from gatedcir.device import CPU
from gatedcir.errors import UserError, check_new_folder, reason_of
from gatedcir.files import check_only_files, check_sums, sums_of, whole_folder, write_json
from gatedcir.gallery.identity import identity_of
from gatedcir.gallery.opening import Opened
from gatedcir.models.onnx_model import OnnxModel, needs
from gatedcir.models.text import Tokenizer
from gatedcir.models.weights.sources import load
from gatedcir.models.weights.vocabulary import wordpieces_from_json
from gatedcir.resources import tensor_bytes

FORMAT = 1
_NOTE, _TOKENIZER = "onnx.json", "tokenizer.json"
_OF_TRANSFORM = ("kind", "size", "target_ratio", "mean", "std", "draft")


def export_onnx(name: str, folder: Path, *, int8: bool = False) -> dict[str, float]:
    """Write a model as graphs. Returns the greatest difference to PyTorch, by graph.

    Args:
        name: of the model, as --model-path takes it.
        folder: a new one.
        int8: keep the weights of matrix products in 8 bits.

    Raises:
        UserError: the folder is not empty; a package is missing; as `write_graphs`.
    """
    check_new_folder(folder, "--output")
    needs("onnx", "onnxruntime", "onnxscript")
    from gatedcir.models.onnx_graphs import write_graphs

    found = load(name)
    model, tokenizer, config = trained_model(found, name)
    transform = make_transform(config, model)
    identity = identity_of(model, config, transform)
    for tower in model.towers:
        tower.set_tower_dtype(torch.float32)
    prompts = "prompt_tokens" in found.own
    note = {
        "format": FORMAT,
        "model": name,
        "precision": "int8" if int8 else "fp32",
        "identity": identity,
        "transform": {field: asdict(transform)[field] for field in _OF_TRANSFORM},
        "tokens": model.num_query_tokens,
        "dim": model.embedding_width,
        "max_length": tokenizer.max_length,
        "has_prompts": prompts,
    }
    with whole_folder(folder, size=2 * tensor_bytes(model.state_dict())) as unfinished:
        differences = write_graphs(
            model, unfinished, max_length=tokenizer.max_length, prompted=prompts, int8=int8
        )
        wordpieces = tokenizer.wordpiece.backend_tokenizer.to_str()
        (unfinished / _TOKENIZER).write_text(wordpieces, encoding="utf-8")
        names = [file.name for file in unfinished.iterdir()]
        write_json(unfinished / _NOTE, note | {"crc32": sums_of(unfinished, *names)})
    return differences


def is_onnx(name: str | Path) -> bool:
    """Whether a name is that of a folder which `export_onnx` wrote."""
    return (Path(name) / _NOTE).is_file()


def open_onnx(folder: Path) -> Opened:
    """The model in a folder. UserError if a file is missing or damaged."""
    check_only_files(folder)
    try:
        note: dict[str, Any] = json.loads((folder / _NOTE).read_bytes())
        if note["format"] != FORMAT:
            raise UserError(
                f"{folder} has format {note['format']}, and this version reads format {FORMAT}; "
                "export the model again."
            )
        names = [file.name for file in folder.iterdir() if file.is_file()]
        check_sums(folder, note.get("crc32", {}), *names)
        of_transform = ((field, note["transform"][field]) for field in _OF_TRANSFORM)
        values: dict[str, Any] = {
            field: tuple(value) if isinstance(value, list) else value
            for field, value in of_transform
        }
        transform = Transform(**values)
        words = wordpieces_from_json((folder / _TOKENIZER).read_text(encoding="utf-8"))
        model = OnnxModel(folder, num_query_tokens=note["tokens"], embedding_width=note["dim"])
        return Opened(
            model,
            Tokenizer(words, max_length=note["max_length"]),
            transform,
            CPU,
            note["identity"] | {"transform": repr(transform)},
            note["has_prompts"],
        )
    except UserError:
        raise
    except Exception as error:  # of JSON, of files and of the tokenizer
        raise UserError(
            f"{folder} is an incomplete copy of a model in ONNX ({reason_of(error)}); copy it "
            "again, or export the model again."
        ) from None
