"""What the folders of an ablation's runs hold already, and whether that still belongs together."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gatedcir.ablation.runs import Run, check_are_runs
from gatedcir.errors import UserError
from gatedcir.files import CONFIG_FILE
from gatedcir.options.changes import changed_flags
from gatedcir.options.parsing import read_yaml, to_dict
from gatedcir.run_folder.checkpoint import goes_on


def check_folders(runs: Sequence[Run], others: Sequence[Run] = ()) -> None:
    """Refuse folders that do not hold what the grid asks for.

    Args:
        runs: those that are asked for.
        others: further ones of the same grid, which may start from these.

    Raises:
        UserError: a folder holds a run with other options, something that is no run, or a run that
            started from weights which are to be trained again.
    """
    check_are_runs(runs)
    for run in runs:
        if not _has_begun(run):
            continue
        before, now = map(_start_named, (read_yaml(run.path / CONFIG_FILE), to_dict(run.config)))
        # A resumed run may change these options, but runs that are compared may not.
        also = [
            name
            for name in ("data-path", "validation-frequency", "backbone")
            if before.get(name) != now[name]
        ]
        for flag in (*changed_flags(before, now), *also):
            name = "from" if flag == "from-run" else flag
            raise UserError(
                f"{run.path} was run with another {name} than this grid asks for; name another "
                f"--output, or remove {that_folder(run, [*runs, *others])}."
            )
    _check_starts_stay(runs, [*runs, *others])


def that_folder(run: Run, runs: Sequence[Run]) -> str:
    """A run's folder in a message that asks to remove it, with those of runs that go on from it."""
    later = [
        other
        for other in runs
        if _has_begun(other) and run.path in (start.path for start in _starts(other))
    ]
    more = f", and also {_listed(later)}, which went on from it" if later else ""
    return f"that folder{more}"


def _check_starts_stay(runs: Sequence[Run], every: Sequence[Run]) -> None:
    """UserError if a run has begun from weights that are to be trained again.

    It would be compared as if it had started from the new ones.
    """
    again = {run.path for run in runs if not (run.is_finished() or goes_on(run.path))}
    starts = {run: [one for one in _starts(run) if one.path in again] for run in every}
    stale = [run for run in every if starts[run] and _has_begun(run)]
    if stale:
        paths = {one.path for run in stale for one in starts[run]} - {run.path for run in stale}
        new = [run for run in runs if run.path in paths]
        raise UserError(
            f"{_listed(new)} would be trained again, but other runs went on from the weights "
            f"before; remove {_listed(stale)} too, or name another --output."
        )


def _start_named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the name of the run that it starts from, which stays if the folder is moved."""
    if options.get("from-run") is None:
        return dict(options)
    name = "/".join(Path(options["from-run"]).parts[-3:])
    return {**options, "from-run": name, "backbone": name}


def _has_begun(run: Run) -> bool:
    return (run.path / CONFIG_FILE).is_file()


def _starts(run: Run) -> Iterator[Run]:
    """The run that a run starts from, the one that this starts from, and so on."""
    while run.source is not None:
        run = run.source
        yield run


def _listed(runs: Sequence[Run]) -> str:
    return ", ".join(dict.fromkeys(str(run.path) for run in runs))
