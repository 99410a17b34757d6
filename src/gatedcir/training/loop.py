"""The one training loop, for every dataset."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from gatedcir.assemble.model import check_opens_again
from gatedcir.data.triplets import Split
from gatedcir.options.checks import check_ranges
from gatedcir.options.config import Config
from gatedcir.options.parsing import to_dict
from gatedcir.run_folder import checkpoint
from gatedcir.run_folder.checkpoint import BEST, LAST
from gatedcir.run_folder.folder import TRAIN, VALIDATION, Place, RunFolder, has, last_line
from gatedcir.run_folder.trackers import check_trackers
from gatedcir.training.averaging import Measured, better_weights
from gatedcir.training.resume import claim_folder, going_on, load_resumed, nothing_to_do
from gatedcir.training.sharding import whole_weights
from gatedcir.training.step import check_launch, make_accelerator
from gatedcir.training.trainer import Trainer, prepare
from gatedcir.training.validation import gate_pictures, validate_epoch


def fit(config: Config) -> Path | None:
    """Fine-tune as the config says. Returns the run's folder, on the main process only.

    The folder is claimed at once. If the run ends before its first epoch is done, it leaves nothing
    behind.

    Raises:
        UserError: bad options, data or weights, or a folder that is in use, before anything is
            written; a loss or weights that no run should go on with; a broken image.
    """
    check_ranges(config)
    check_opens_again(config)
    check_trackers(config.run.tracker)
    accelerator = make_accelerator(config.run.device)
    check_launch(config, accelerator.device)
    with claim_folder(config) if accelerator.is_main_process else nullcontext() as place:
        resumes = broadcast_object_list([place is not None and place.resumes])[0]
        try:
            _fit(config, accelerator, place, resumes=resumes)
        except KeyboardInterrupt:
            line = last_line(place.path, stopped="stopped") if place is not None else "stopped."
            raise KeyboardInterrupt(line) from None
        return None if place is None else place.path


def _fit(config: Config, accelerator: Accelerator, place: Place | None, *, resumes: bool) -> None:
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
            print(going_on(config.run.resume, kept, done, epochs))
    folder_name = broadcast_object_list([place.path if place is not None else None])[0]
    trainer, splits = prepare(config, accelerator, resumed, folder_name)
    best = trainer.resume()
    folder = None
    if place is not None and resumed is not None:
        names, options = config.run.tracker, to_dict(config)
        folder = RunFolder(place.path, done=done, kept=kept, trackers=names, config=options)
    if overdue:
        best = _end_epoch(trainer, folder, splits, done - 1, best)
    for epoch in range(done, epochs):
        row, steps = trainer.train_epoch(epoch)
        if place is not None:
            folder = folder or RunFolder.create(
                place.path, to_dict(config), trainer.provenance, trackers=config.run.tracker
            )
            folder.add(TRAIN, epoch, row)
            folder.add_steps(epoch, steps)
        best = _end_epoch(trainer, folder, splits, epoch, best)
        accelerator.wait_for_everyone()
    if folder is not None:
        folder.close()


def _end_epoch(
    trainer: Trainer, folder: RunFolder | None, splits: list[Split], epoch: int, best: float
) -> float:
    """Validate if it is due, and save as the options say. Returns the best score so far.

    All processes call it, because weights may be in shards. The one with the folder does the work.
    """
    run = trainer.config.run
    trainer.step.choose_scales(epoch)
    snapshot = trainer.snapshot(epoch + 1) if run.keeps_last or run.keeps_best else None
    state = trainer.step.state() if run.keeps_last else {}

    def save(metrics: dict[str, float]) -> None:
        """Save the state for resuming, if the options ask for it. The epoch gives random states."""
        if folder is not None and snapshot is not None and run.keeps_last:
            first = list(trainer.first_losses or ())
            more = {"best": best, "first_losses": first, "tables": folder.tables}
            kept = replace(snapshot, metrics=metrics, trainer={**state, **more})
            checkpoint.save(folder.checkpoints / LAST, kept)

    with whole_weights(trainer.step.model):
        # Save before the validation too. If it fails, for example on a broken image, the epoch is
        # not lost: a resumed run begins with the validation that is missing.
        save({})
        if folder is not None and _is_due(trainer.config, epoch):
            headline = trainer.evaluator.benchmark.headline

            def validate() -> Measured:
                return validate_epoch(trainer.evaluator, splits, trainer.changes, epoch)

            averaged = trainer.step.averaged
            with better_weights(averaged, validate, headline=headline) as (metrics, figures):
                score = metrics[headline]
                if snapshot is not None and run.keeps_best and score > best:
                    checkpoint.save(folder.checkpoints / BEST, replace(snapshot, metrics=metrics))
            best = max(best, score)
            folder.add(VALIDATION, epoch, metrics | figures)
            folder.add_pictures(epoch, gate_pictures(trainer.evaluator, splits))
            save(metrics)
    return best


def _is_due(config: Config, epoch: int) -> bool:
    """Whether an epoch ends with a validation."""
    done, every = epoch + 1, config.run.validation_frequency
    return every > 0 and (done % every == 0 or done == config.optim.num_epochs)
