"""The one training loop, for every dataset."""

from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from gatedcir.assemble.model import check_opens_again
from gatedcir.data.triplets import Split
from gatedcir.options.checks import check_ranges
from gatedcir.options.config import Config
from gatedcir.options.parsing import to_dict
from gatedcir.run_folder.folder import TRAIN, VALIDATION, Place, RunFolder, has, last_line
from gatedcir.run_folder.trackers import check_trackers
from gatedcir.training.resume import claim_folder, going_on, load_resumed, nothing_to_do
from gatedcir.training.saving import Saving
from gatedcir.training.sharding import whole_weights
from gatedcir.training.step import check_launch, make_accelerator
from gatedcir.training.stop import Stop, in_words
from gatedcir.training.trainer import Trainer, prepare
from gatedcir.training.validation import gate_pictures, validate_epoch


def fit(config: Config) -> Path | None:
    """Fine-tune as the config says. Returns the run's folder, on the main process only.

    The folder is claimed at once. If the run ends before its first epoch is done, it leaves nothing
    behind but a state that it saved, or the triplets of a step without a finite loss.

    Raises:
        UserError: bad options, data or weights, or a folder that is in use, before anything is
            written; a loss or weights that no run should go on with; a broken image.
    """
    check_ranges(config)
    check_opens_again(config)
    check_trackers(config.run.tracker)
    accelerator = make_accelerator(config.run.device)
    check_launch(config, accelerator.device)
    stop, main = Stop(), accelerator.is_main_process
    with stop.listening(), claim_folder(config) if main else nullcontext() as place:
        resumes = broadcast_object_list([place is not None and place.resumes])[0]
        try:
            _fit(config, accelerator, place, stop, resumes=resumes)
        except KeyboardInterrupt as end:
            stopped = f"stopped {stop.where}".strip()
            line = last_line(place.path, stopped=stopped) if place is not None else "stopped."
            raise in_words(end, line) from None
        return None if place is None else place.path


def _fit(
    config: Config, accelerator: Accelerator, place: Place | None, stop: Stop, *, resumes: bool
) -> None:
    """Train the epochs that are left. Only the main process has the folder, and writes."""
    main, epochs = place is not None, config.optim.num_epochs
    resumed, kept = load_resumed(config, accelerator.num_processes) if resumes else (None, None)
    done = resumed.epoch if resumed is not None else 0
    overdue = kept is not None and _is_due(config, done - 1) and not has(kept, VALIDATION, done - 1)
    if resumed is not None and kept is not None:
        assert config.run.resume is not None
        if done >= epochs and not overdue:
            if main:
                RunFolder(config.run.resume, done=done, kept=kept).close()
                print(nothing_to_do(config.run.resume, epochs))
            return
        if main:
            print(going_on(config.run.resume, kept, resumed, epochs))
    folder_name = broadcast_object_list([place.path if place is not None else None])[0]
    trainer, splits = prepare(config, accelerator, resumed, folder_name)
    best = trainer.resume()

    @cache
    def folder() -> RunFolder:
        assert place is not None
        names, options = config.run.tracker, to_dict(config)
        if resumed is not None:
            return RunFolder(place.path, done=done, kept=kept, trackers=names, config=options)
        return RunFolder.create(place.path, options, trainer.provenance, trackers=names)

    saving = Saving(
        config.run,
        accelerator,
        stop,
        trainer.take,
        folder if main else None,
        goes_on=resumed is not None,
        best=best,
    )
    if main and resumed is not None:
        folder()  # its tables are mended at once
    with stop.later():
        if overdue:
            _end_epoch(trainer, saving, splits, done - 1)
        for epoch in range(done, epochs):
            row, steps = trainer.train_epoch(epoch, saving)
            if main:
                folder().add(TRAIN, epoch, row)
                folder().add_steps(epoch, steps)
            _end_epoch(trainer, saving, splits, epoch)
            accelerator.wait_for_everyone()
    if main:
        folder().close()


def _end_epoch(trainer: Trainer, saving: Saving, splits: list[Split], epoch: int) -> None:
    """Validate if it is due, and save as the options say. All processes must call it."""
    evaluator = trainer.evaluator
    trainer.step.choose_scales(epoch)
    taken = trainer.take(epoch + 1) if trainer.config.run.save else None
    check = None
    if _is_due(trainer.config, epoch):
        check = partial(validate_epoch, evaluator, splits, trainer.changes, epoch)
    with whole_weights(trainer.step.model):
        headline = evaluator.benchmark.headline
        averaged = trainer.step.averaged
        saving.end_epoch(taken, check, averaged, epoch=epoch, headline=headline)
        if check is not None and saving.open is not None:
            saving.open().add_pictures(epoch, gate_pictures(evaluator, splits))


def _is_due(config: Config, epoch: int) -> bool:
    """Whether an epoch ends with a validation. Number -1, before the first, does not."""
    done, every = epoch + 1, config.run.validation_frequency
    return epoch >= 0 and every > 0 and (done % every == 0 or done == config.optim.num_epochs)
