"""Take weights out: parse, write, print where they are."""

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
    """Which model, and in which layout it goes where."""

    model_path: ModelPath
    output: Path
    """A new folder for hub; a new file for lavis (.pth) and sprc (.pt), beside which vocab.txt and
    config.json are put."""
    format: Literal["hub", "lavis", "sprc"]
    """hub: safetensors, config, tokenizer and model card; lavis: {"model": ...}, without prompts;
    sprc: {"epoch": ..., "Blip2QformerCirAlignPrompt": ...}."""
    drop_fusion: bool = False
    """Write lavis and sprc without the model's fusion, which they have no place for: what it
    learned is lost, and queries get other features. Only with strategy none nothing changes."""
    push: str | None = None
    """Upload the folder of hub to this repository too, for instance user/model."""


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
