"""Fine-tune a composed-image-retrieval model: parse, build, fit."""

import sys
from collections.abc import Sequence

from gatedcir.commands.main import COMMANDS
from gatedcir.options.config import Config
from gatedcir.options.later_stage import below_flags
from gatedcir.options.parsing import parse


def main(argv: Sequence[str] | None = None) -> None:
    """Train and print where the run is. A dry run prints what training would need instead."""
    words = sys.argv[1:] if argv is None else argv
    config = parse(Config, argv, description=COMMANDS["train"], below=below_flags(words))
    if config.run.dry_run:
        from gatedcir.training.dry_run import dry_run

        found = dry_run(config)
        if found is not None:
            print(found)
        return
    from gatedcir.training.loop import fit

    folder = fit(config)
    if folder is not None:
        print(f"run: {folder}")
