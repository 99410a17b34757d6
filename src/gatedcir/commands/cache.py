"""Encode a dataset's images once, for all training commands with the same images and tower."""

from collections.abc import Sequence
from pathlib import Path

from gatedcir.commands.main import COMMANDS
from gatedcir.errors import UserError
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse


def main(argv: Sequence[str] | None = None) -> None:
    """Complete the feature cache that training with these flags reads. Print where it is."""
    config = parse(Config, argv, description=COMMANDS["cache"])
    if not isinstance(config.run.cache_features, Path):
        raise UserError("there is no folder to write to; pass --cache-features FOLDER.")
    if config.backbone.train_vision:
        raise UserError("--train-vision leaves nothing to cache; leave it out.")
    from gatedcir.assemble.data import keeping, load_training, make_pixels, with_workers_that_fit
    from gatedcir.assemble.evaluator import LARGEST_BATCH, place
    from gatedcir.assemble.model import build
    from gatedcir.device import Device
    from gatedcir.features.cache import feature_folder, fill_folder
    from gatedcir.options.checks import check_ranges
    from gatedcir.resources import GIB
    from gatedcir.training.step import make_accelerator

    check_ranges(config)
    accelerator = make_accelerator(config.run.device)
    names = ["train", "val"] if config.run.validates else ["train"]
    found = load_training(config, *names, folder=config.run.cache_features)
    splits = [split for parts in found for split in parts]
    model, _ = build(config)
    place(model, accelerator.device, config)
    pixels = make_pixels(config, model, splits)
    runs_on = Device.of(config.optim.mixed_precision, accelerator.device)
    folder = feature_folder(keeping(config, runs_on), model, pixels)
    here = with_workers_that_fit(config, model, LARGEST_BATCH)
    fill_folder(folder, keeping(here, runs_on), model, pixels)
    if accelerator.is_main_process:
        size = len(pixels.paths) * folder.bytes_per_image
        print(f"features: {folder.path}, {len(pixels.paths)} images, {size / GIB:.2f} GiB")
