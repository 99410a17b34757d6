"""The options that a later stage of training takes from the run that it goes on with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gatedcir.errors import UserError
from gatedcir.files import CONFIG_FILE
from gatedcir.options.command_line import by_name, split
from gatedcir.options.config import Config, DataConfig, TransformConfig
from gatedcir.options.parsing import flags_of, read_yaml, to_dict
from gatedcir.options.paths import expand

_TAKEN = {"model", *to_dict(DataConfig("CIRR")), *to_dict(TransformConfig())}
_NEEDS = {"bank": {"query-branch": "second"}, "rerank": {"matcher": "itm"}}
"""The parts of the model that a stage trains."""
_OTHER_WAYS = {"--dataset", "--resume"}
"""Flags that say where the options of a later stage come from."""
_HELP = {"--help", "--help-all", "-h"}


def below_flags(words: Sequence[str]) -> dict[str, Any]:
    """Options of the run that `--from` names, as `parse` takes them below the flags.

    The file of `--config` may name the run and the stage too.

    Raises:
        UserError: there is no such run or file, or a later stage names no run.
    """
    given = _values(words)
    if given.keys() & _HELP:
        return {}
    if file := given.get("--config"):
        found = flags_of(read_yaml(Path(expand(file[0]))), known=by_name(Config))
        given = _values(found) | given
    named = given.get("--from-run")
    stage = (given.get("--stage") or ("whole",))[0]
    if not named:
        if stage in _NEEDS and not given.keys() & _OTHER_WAYS:
            raise UserError(
                f"--stage {stage} goes on with a trained model; name its run with --from RUN."
            )
        return {}
    run = Path(expand(named[0]))
    if not (run / CONFIG_FILE).is_file():
        raise UserError(f"there is no run at {run} to start from; name a run's folder.")
    return taken(read_yaml(run / CONFIG_FILE), run, stage=stage)


def _values(words: Sequence[str]) -> dict[str, Sequence[str]]:
    """Flag -> its values."""
    return {"--from-run" if g.flag == "--from" else g.flag: g.values for g in split(words)}


def taken(options: Mapping[str, Any], run: Path, *, stage: str) -> dict[str, Any]:
    """What a training with `--from` takes from a run: data, transform, model and weights.

    Args:
        options: those of the run, nested as in its file.
        run: its folder, which has the weights.
        stage: of the training. The parts of the model that it trains are added. A matcher is left
            out where the search that it was trained for is trained again.
    """
    found = {n: value for n, value in options.items() if n in _TAKEN and value is not None}
    model = found.get("model", {})
    for name, value in _NEEDS.get(stage, {}).items():
        if model.get(name, "none") == "none":
            model = {**model, name: value}
    if stage != "rerank" and "matcher" in model:
        model = {**model, "matcher": "none"}
    model = {name: value for name, value in model.items() if value is not None}
    return {**found, "model": model, "backbone": str(run)}
