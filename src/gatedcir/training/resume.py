"""The messages of a run before it starts, and the state that a resumed run loads."""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from gatedcir.assemble.data import is_synthetic
from gatedcir.assemble.recipes import CAPTIONS
from gatedcir.benchmarks.registry import benchmark
from gatedcir.data.fingerprint import KEY as FINGERPRINTS
from gatedcir.data.fingerprint import changed_split
from gatedcir.errors import UserError, is_lack_of_memory, reason_of
from gatedcir.files import NotReadError
from gatedcir.models.weights.locations import locate
from gatedcir.options.changes import changed_flags
from gatedcir.options.command_line import by_name
from gatedcir.options.config import Config
from gatedcir.options.parsing import to_dict, unknown_in_run
from gatedcir.processes import is_main, say
from gatedcir.run_folder import checkpoint
from gatedcir.run_folder.checkpoint import BEFORE, CHECKPOINTS, LAST, Checkpoint
from gatedcir.run_folder.folder import TRAIN, Place, Tables, claimed, rows_until

DAMAGED = "damaged.pt"


def load_resumed(config: Config, processes: int) -> tuple[Checkpoint, Tables]:
    """The last state of the run to go on with, and its tables.

    Raises:
        UserError: there is none, or it cannot go on with these options.
    """
    assert config.run.resume is not None
    found = _newest(config.run.resume / CHECKPOINTS)
    if found is None or found.trainer is None:
        raise UserError(
            f"{config.run.resume} holds no training state to go on from, which --save-training "
            "keeps; start a new run with it."
        )
    known = by_name(Config)
    for flag in changed_flags(found.config, to_dict(config)):
        if f"--{flag}" not in known:
            raise UserError(unknown_in_run(config.run.resume, flag))
        raise UserError(
            f"--{flag} is another than {config.run.resume} was trained with; leave it out, or "
            "start a new run."
        )
    before = found.provenance.get("processes", processes)
    if before != processes:
        raise UserError(
            f"{config.run.resume} was trained on {before} processes and not {processes}, which "
            "make other batches; launch as many, or start a new run."
        )
    kept = found.trainer.get("tables")  # earlier versions only have them in their files
    with told_of(config.run.resume):
        return found, rows_until(config.run.resume, found.epoch, kept)


@contextmanager
def told_of(run: Path) -> Iterator[None]:
    """UserError in place of any other error of loading the state of a run."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        if is_lack_of_memory(e):
            raise
        raise UserError(
            f"{run / CHECKPOINTS / LAST} holds a state that no training can go on from "
            f"({reason_of(e)}); put {BEFORE} in its place, or start again."
        ) from None


def _newest(folder: Path) -> Checkpoint | None:
    """The last state, or the one before where the last is damaged or lost. None without both.

    A damaged file is set aside, so that it takes no good one's place.
    """
    last, before = folder / LAST, folder / BEFORE
    if not last.is_file() and not before.is_file():
        return None
    try:
        if last.is_file():
            return checkpoint.load(last)
        reason = f"there is no {last}"
    except NotReadError:
        raise  # it may be good
    except UserError as error:
        if not before.is_file():
            raise
        reason = str(error).partition(", so it")[0].rstrip(".")
    found = checkpoint.load(before)
    say(f"{reason}; {before} is taken, the save before")
    if is_main() and last.is_file():
        last.replace(last.with_name(DAMAGED))
    return found


def check_start(config: Config) -> None:
    """UserError if the weights that a resumed run started from are where they were no more."""
    name = config.backbone.backbone
    try:
        locate(name)
    except UserError as error:
        if config.recipe.from_run is None:
            raise
        raise UserError(
            f"{config.run.resume} started from {name}, where no weights are now; name their new "
            "place with --backbone."
        ) from error


def check_same_data(config: Config, resumed: Checkpoint, found: Mapping[str, str]) -> None:
    """UserError if the splits differ from those that a run was trained on.

    Args:
        config: of the run that goes on.
        resumed: its last state. The state of an earlier version has no fingerprints.
        found: the fingerprints of the splits that were read.
    """
    if name := changed_split(resumed.provenance.get(FINGERPRINTS, {}), found):
        if name.startswith(CAPTIONS):
            raise UserError(
                f"{name.removeprefix(CAPTIONS)} is not the file that {config.run.resume} was "
                "trained on; put the old one back, or start a new run in another folder."
            )
        path = resumed.config.get("data-path")
        before = replace(config.data, data_path=Path(path) if path else None).folder
        raise UserError(
            f"{name} in {config.data.folder} is not the one that {config.run.resume} was trained "
            f"on, then in {before}; name the old data with --data-path, or start a new run in "
            "another folder."
        )


def going_on(run: Path, tables: Tables, found: Checkpoint, epochs: int) -> str:
    """The message for a run that goes on. It also names rows that its tables have lost."""
    done, parts = found.epoch, (found.trainer or {}).get("so_far")
    lost = sorted(set(range(done)) - {row["epoch"] for row in tables[TRAIN]})
    more = f" at step {parts[0]['steps']}" if parts else ""
    more += f"; the tables lack epochs {', '.join(map(str, lost))}" if lost else ""
    return f"{run}: {done} of {epochs} epochs are done, it goes on with epoch {done}{more}"


def nothing_to_do(run: Path, epochs: int) -> str:
    """The message for a run that has all of its epochs."""
    return (
        f"{run}: all {epochs} epochs are done, nothing is to do; to train longer, start a new run "
        f"from its weights with --backbone {run}"
    )


def remarks(config: Config) -> Iterator[str]:
    """Lines on options that are easily set by mistake."""
    if config.backbone.backbone == "tiny" and not is_synthetic(config.data):
        yield (
            "--backbone tiny is the small embedded model, for trials and synthetic data; "
            "--backbone pretrain takes BLIP-2's weights"
        )
    if not config.run.validates:
        yield (
            "no validation (--validation-frequency 0): no best model is known, and "
            + ("the last one is kept" if config.run.keeps_last else "no weights are kept")
        )
    elif not (config.run.keeps_best or config.run.keeps_last):
        more = ", which turns --save-training off too" if config.run.save_training else ""
        yield f"no weights are kept, as --no-save or --no-save-best asks{more}"


def claim_folder(config: Config) -> AbstractContextManager[Place]:
    """The run's folder, for this process alone."""
    dataset = re.sub(r"\W+", "-", benchmark(config.data.dataset).name.lower())
    return claimed(
        output=config.run.output,
        resume=config.run.resume,
        name=f"{dataset}-{config.backbone.blip_model_name}",
    )
