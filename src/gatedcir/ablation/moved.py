"""Stopped runs of an ablation that was moved: the runs that they start from lie elsewhere now."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from gatedcir.errors import UserError
from gatedcir.files import CONFIG_FILE, write_text
from gatedcir.options.parsing import read_yaml
from gatedcir.run_folder import checkpoint
from gatedcir.run_folder.checkpoint import BEFORE, CHECKPOINTS, LAST


def start_named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the name of the run that it starts from, which stays if the folder is moved."""
    if options.get("from-run") is None:
        return dict(options)
    name = "/".join(Path(options["from-run"]).parts[-3:])
    return {**options, "from-run": name, "backbone": name}


def find_start(run: Path, start: Path) -> None:
    """Write down where the run lies that a stopped run starts from, if that is another place.

    A resumed run reads the place in its config, and compares it with that of its saved state.

    Raises:
        UserError: there is no room to write.
    """
    config, now = read_yaml(run / CONFIG_FILE), {"from-run": str(start), "backbone": str(start)}
    if config | now == config:
        return
    for name in (LAST, BEFORE):
        file = run / CHECKPOINTS / name
        try:
            found = checkpoint.load(file)
        except UserError:  # not there, or damaged: the resumed run says so, or takes the other
            continue
        checkpoint.save(file, replace(found, config=found.config | now))
    write_text(run / CONFIG_FILE, yaml.safe_dump(config | now, sort_keys=False))
