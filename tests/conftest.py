"""Small synthetic datasets and a short run, made once for the whole suite.

Nothing large is imported before a fixture needs it: pytest-xdist reads this file in the process
that hands out the tests too, before it starts the others.
"""

import gc
import os
from pathlib import Path

import forked
import pytest
from option_fixtures import yaml_file
from published_model import golden, published, sprc_file
from served_page import photos, site

from gatedcir.errors import UserError

# Fixtures of other files.
__all__ = ["golden", "photos", "published", "site", "sprc_file", "yaml_file"]
# Tests compare numbers bit for bit, which GPUs do not promise. test_on_gpu.py alone uses those that
# are here. The processes of a run share one environment, so the first one writes them down.
GPUS = os.environ.setdefault("GPUS_OF_TESTS", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
LONGEST = {
    *("test_readme.py", "test_processes.py", "test_wheel.py", "test_entry_points.py"),
    *("test_stopped_runs.py", "test_visual_commands.py", "test_cache.py", "test_precisions.py"),
    *("test_ablation.py", "test_configs.py", "test_resized.py", "test_train.py"),
}
SIZES = {"train": 8, "val": 6, "test": 20}  # the CIRR server wants 50 images of test


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported here stays, so the garbage collector looks at it neither now nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_configure(config):
    """Files keep their order: pytest-xdist would begin with those of the most tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """The longest files come first, so that at the end no process waits long for another."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _quick_starts():
    """Trainings that an ablation starts are forked. test_wheel.py starts one as a user does."""
    from gatedcir.ablation import runs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "start", forked.start_training)
        yield


@pytest.fixture(scope="session", autouse=True)
def _quick_reading():
    """The tiny backbone is read once, and copied then. Nothing waits until a disk has written."""
    from copies import copier

    from gatedcir.models.backbone import Backbone
    from gatedcir.models.weights.locations import TINY

    read, kept = Backbone.from_pretrained, []

    def copied(source):
        if source != str(TINY):
            return read(source)
        kept[:] = kept or [copier(read(source))]
        return kept[0]()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backbone, "from_pretrained", copied)
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """A working directory with ./cirr_dataset and ./fashionIQ_dataset in it."""
    from gatedcir.synthetic.layouts import write_cirr, write_fashioniq

    folder = tmp_path_factory.mktemp("home")
    list(write_cirr(folder / "cirr_dataset", SIZES, seed=0))
    list(write_fashioniq(folder / "fashionIQ_dataset", SIZES, seed=0))
    return folder


SHORT = "--backbone tiny --batch-size 4 --num-workers 0 --mixed-precision fp32".split()


def bad(command, flags, *words):
    """The message of a UserError, one line that holds the words."""
    with pytest.raises(UserError) as caught:
        command.main([str(flag) for flag in flags])
    message = str(caught.value).strip().splitlines()[-1]
    assert all(word in message for word in words), message
    return message


def encode_triplets(model, references, targets, text):
    """Features of triplets that share no image."""
    import torch

    if isinstance(references, list):
        images = [torch.cat(both) for both in zip(references, targets, strict=True)]
    else:
        images = torch.cat([references, targets])
    return model(images, *torch.arange(2 * len(text.input_ids)).chunk(2), text)


def whole_checkpoint(path: Path):
    """A run's checkpoint, with the frozen towers that its file only names."""
    from gatedcir.models.weights.sources import with_towers
    from gatedcir.run_folder import checkpoint

    return with_towers(checkpoint.load(path), path)


@pytest.fixture(scope="session")
def cirr_run(home) -> Path:
    """A run of two epochs on the small CIRR folder, all checkpoints kept."""
    import torch

    import blip_fine_tune_2

    run = home / "cirr_run"
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    flags += ["--num-epochs", "2", "--learning-rate", "1e-3", "--save-training", "--save-best"]
    torch.manual_seed(0)
    blip_fine_tune_2.main([*flags, "--output", str(run)])
    return run
