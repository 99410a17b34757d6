"""tyro reads only what differs from the defaults, as if it read the whole dataclass."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from gatedcir.options.command_line import normal, split
from gatedcir.options.config import Config, DataConfig
from gatedcir.options.filled import filled
from gatedcir.options.parsing import by_name, flags_of, parse, read_yaml, to_dict
from gatedcir.options.refusals import quietly

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
CIRR = ["--dataset", "CIRR"]


@dataclass(frozen=True)
class Pictures:
    text: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    num: int = 4


def given(options, words):
    known = by_name(options)
    return [normal(one, known.get(one.flag)) for one in split(words)]


def both(options, words):
    """What is found, and what tyro makes of the whole dataclass."""
    each = given(options, words)
    return filled(options, each), quietly(options, [word for one in each for word in one.words])


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_a_file_of_options(file):
    found, whole = both(Config, [*CIRR, *flags_of(read_yaml(file), known=by_name(Config))])
    assert found == whole


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--seed", "3", "--seed", "0"],  # the last one wins, a default too
        ["--no-save", "--save-training", "--save"],
        ["--output-dir", "here", "--model.visual-layers", "-1", "-4"],
        ["--loss-scale", "0.5", "0.25", "--image-size", "None", "--cache-features", "none"],
        ["--model.gated-fusion.strategy", "grounded", "--tracker", "wandb", "mlflow"],
    ],
    ids=" ".join,
)
def test_flags(words):
    found, whole = both(Config, [*CIRR, *words])
    assert found == whole
    assert to_dict(found) == to_dict(whole)


def test_a_flag_that_gives_one_more_value_each_time():
    found, whole = both(Pictures, ["--text", "red", "--text", "two of them"])
    assert found == whole == Pictures(text=("red", "two of them"))


def test_a_file_of_all_options_is_read_back():
    config = parse(Config, [*CIRR, "--seed", "7", "--gallery", "photos"], description="")
    found, whole = both(Config, flags_of(to_dict(config), known=by_name(Config)))
    assert found == whole == config


@dataclass(frozen=True)
class Around:
    data: DataConfig = field(default_factory=lambda: DataConfig("CIRCO", limit=5))


def test_a_group_keeps_the_defaults_of_the_dataclass_around_it():
    found = filled(Around, given(Around, ["--num-workers", "0"]))
    assert found == Around(DataConfig("CIRCO", limit=5, num_workers=0))


@pytest.mark.parametrize(
    "words",
    [
        [],  # no dataset
        [*CIRR, "--seed", "x"],
        [*CIRR, "--seed"],
        [*CIRR, "--sed", "1"],
        ["word", *CIRR],
        [*CIRR, "--save", "yes"],
        [*CIRR, "--seed", "1", "2"],
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_refused(words):
    with pytest.raises(SystemExit) as refused:
        filled(Config, given(Config, words))
    assert refused.value.code
