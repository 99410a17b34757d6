"""Small synthetic datasets and a short run, made once for the whole suite."""

import os
from pathlib import Path

import forked
import pytest
import torch
from option_fixtures import yaml_file
from published_model import golden, published, sprc_file
from served_page import photos, site

import blip_fine_tune_2
from gatedcir.ablation import runs
from gatedcir.errors import UserError
from gatedcir.models.weights.sources import with_towers
from gatedcir.run_folder import checkpoint
from gatedcir.run_folder.checkpoint import Checkpoint
from gatedcir.synthetic.layouts import write_cirr, write_fashioniq

# Fixtures of other files.
__all__ = ["golden", "photos", "published", "site", "sprc_file", "yaml_file"]
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
SIZES = {"train": 24, "val": 6, "test": 20}  # the CIRR server wants 50 images of test


@pytest.fixture(scope="session", autouse=True)
def _quick_starts():
    """Trainings that an ablation starts are forked. test_wheel.py starts them as a user does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "start", forked.start_training)
        yield


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """A working directory with ./cirr_dataset and ./fashionIQ_dataset in it."""
    folder = tmp_path_factory.mktemp("home")
    list(write_cirr(folder / "cirr_dataset", SIZES, seed=0))
    list(write_fashioniq(folder / "fashionIQ_dataset", SIZES, seed=0))
    return folder


SHORT = "--backbone tiny --batch-size 8 --num-workers 0 --mixed-precision fp32".split()


def bad(command, flags, *words):
    """The message of a UserError, one line that holds the words."""
    with pytest.raises(UserError) as caught:
        command.main([str(flag) for flag in flags])
    message = str(caught.value).strip().splitlines()[-1]
    assert all(word in message for word in words), message
    return message


def encode_triplets(model, references, targets, text):
    """Features of triplets that share no image."""
    if isinstance(references, list):
        images = [torch.cat(both) for both in zip(references, targets, strict=True)]
    else:
        images = torch.cat([references, targets])
    return model(images, *torch.arange(2 * len(text.input_ids)).chunk(2), text)


def whole_checkpoint(path: Path) -> Checkpoint:
    """A run's checkpoint, with the frozen towers that its file only names."""
    return with_towers(checkpoint.load(path), path)


@pytest.fixture(scope="session")
def cirr_run(home) -> Path:
    """A run of two epochs on the small CIRR folder, all checkpoints kept."""
    run = home / "cirr_run"
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    flags += ["--num-epochs", "2", "--learning-rate", "1e-3", "--save-training", "--save-best"]
    torch.manual_seed(0)
    blip_fine_tune_2.main([*flags, "--output", str(run)])
    return run
