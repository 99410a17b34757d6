"""Export weights: parse, write, print where they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gatedcir.commands.main import COMMANDS
from gatedcir.errors import UserError
from gatedcir.options.config import ModelPath
from gatedcir.options.parsing import parse


@dataclass(frozen=True)
class Options:
    """Which model is written, in which layout, and where."""

    model_path: ModelPath
    output: Path
    """A new folder for hub. A new file for lavis (.pth) and sprc (.pt), and next to it vocab.txt
    and config.json."""
    format: Literal["hub", "lavis", "sprc"]
    """hub: safetensors, config, tokenizer and model card. lavis: {"model": ...}, without prompts.
    sprc: {"epoch": ..., "Blip2QformerCirAlignPrompt": ...}."""
    drop_fusion: bool = False
    """Write lavis and sprc without the model's fusion, which these formats cannot hold. Its weights
    are lost, and queries get other features. With strategy none, queries stay the same."""
    push: str | None = None
    """Also upload the folder of hub to this repository, for example user/model."""


def main(argv: Sequence[str] | None = None) -> None:
    """Write a model in another layout."""
    options = parse(Options, argv, description=COMMANDS["export"])
    from gatedcir.pretrained import export_file, export_folder

    if options.format == "hub":
        if options.drop_fusion:
            raise UserError("--format hub keeps the fusion; leave --drop-fusion out.")
        address = export_folder(str(options.model_path), options.output, push=options.push)
        print(options.output, *([address] if address else []), sep="\n")
        return
    if options.push is not None:
        raise UserError(f"--push uploads --format hub only; {options.format} stays a file.")
    export_file(
        str(options.model_path), options.output, options.format, drop_fusion=options.drop_fusion
    )
    print(options.output)
