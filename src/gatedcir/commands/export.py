"""Export weights: parse, write, print where they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gatedcir.commands.main import COMMANDS
from gatedcir.errors import UserError
from gatedcir.options.config import ModelPath
from gatedcir.options.parsing import parse


@dataclass(frozen=True)
class Options:
    """Which model is written, in which layout, and where."""

    model_path: ModelPath
    output: Path
    """A new folder for hub and onnx. A new file for lavis (.pth) and sprc (.pt), and next to it
    vocab.txt and config.json."""
    format: Annotated[Literal["hub", "lavis", "sprc", "onnx"], tyro.conf.arg(aliases=("--to",))]
    """hub: safetensors, config, tokenizer and model card. lavis: {"model": ...}, without prompts.
    sprc: {"epoch": ..., "Blip2QformerCirAlignPrompt": ...}. onnx: graphs for searches on the CPU by
    onnxruntime."""
    int8: bool = False
    """Write the weights of onnx in 8 bits, and round the inputs of matrix products as they come."""
    drop_fusion: bool = False
    """Write lavis and sprc without the model's fusion, which these formats cannot hold. Its weights
    are lost, and queries get other features. With strategy none, queries stay the same."""
    push: str | None = None
    """Also upload the folder of hub to this repository, for example user/model."""


def main(argv: Sequence[str] | None = None) -> None:
    """Write a model in another layout."""
    options = parse(Options, argv, description=COMMANDS["export"])
    from gatedcir.pretrained import export_file, export_folder

    if options.int8 and options.format != "onnx":
        raise UserError(f"--int8 is for --format onnx; leave it out for {options.format}.")
    if options.drop_fusion and options.format == "onnx":
        raise UserError("--format onnx keeps the fusion; leave --drop-fusion out.")
    if options.format == "hub":
        if options.drop_fusion:
            raise UserError("--format hub keeps the fusion; leave --drop-fusion out.")
        address = export_folder(str(options.model_path), options.output, push=options.push)
        print(options.output, *([address] if address else []), sep="\n")
        return
    if options.push is not None:
        raise UserError(f"--push uploads --format hub only; {options.format} stays a file.")
    if options.format == "onnx":
        from gatedcir.gallery.onnx_folder import export_onnx

        found = export_onnx(str(options.model_path), options.output, int8=options.int8)
        worst = ", ".join(f"{name} {difference:.1g}" for name, difference in found.items())
        print(options.output, f"greatest difference to PyTorch: {worst}", sep="\n")
        return
    export_file(
        str(options.model_path), options.output, options.format, drop_fusion=options.drop_fusion
    )
    print(options.output)
