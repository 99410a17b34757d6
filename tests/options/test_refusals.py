"""Wrong flags and values: one sentence that names the way out."""

import dataclasses
import re
from typing import Annotated

import pytest
import tyro
from option_fixtures import read, refusal

from gatedcir.commands import evaluate, export
from gatedcir.commands.judge import say_without_judge
from gatedcir.commands.pictures import Options as Pictures
from gatedcir.errors import UserError
from gatedcir.options.command_line import flag_names
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse
from gatedcir.options.refusals import SYNONYMS
from gatedcir.run_folder.claim import Claim


@pytest.mark.parametrize(
    ("argv", "wrong", "nearest"),
    [
        ("--dataset CIRR --lerning-rate 1", "--lerning-rate", "--learning-rate"),
        ("--dataset CIRR --lerning-rate=1", "--lerning-rate", "--learning-rate"),
        (
            "--dataset CIRR --model.gated-fusion.strategey none",
            "--model.gated-fusion.strategey",
            "--model.gated-fusion.strategy",
        ),
        ("--dataset CIRR --strategy none", "--strategy", "--model.gated-fusion.strategy"),
        ("--dataset CIRR --layers 3", "--layers", "--model.visual-layers"),
        ("--dataset CIRR --no-save-bets", "--no-save-bets", "--no-save-best"),
        ("--dataste CIRR", "--dataste", "--dataset"),
        ("--conifg a.yaml", "--conifg", "--config"),
        ("--dataset CIRR --cofig=a.yaml", "--cofig", "--config"),
        ("--resmue runs/cirr", "--resmue", "--resume"),
        ("--dataset CIRR --lr 1e-4", "--lr", "--learning-rate"),
        ("--dataset CIRR --epochs 3", "--epochs", "--num-epochs"),
        ("--dataset CIRR --bs=3", "--bs", "--batch-size"),
        ("--dataset CIRR --model tiny", "--model", "--backbone"),
        ("--dataset-path x", "--dataset-path", "--data-path"),
    ],
)
def test_unknown_flag_names_the_nearest(argv, wrong, nearest):
    expected = f"there is no option {wrong}; {nearest} is the nearest."
    assert refusal(*argv.split()) == expected


@pytest.mark.parametrize("name", SYNONYMS)
def test_a_synonym_stands_for_an_option_and_is_none(name):
    known = {*flag_names(Config), *flag_names(evaluate.Options), *flag_names(Pictures)}
    known |= set(flag_names(export.Options))
    assert set(SYNONYMS[name]) <= known
    assert f"--{name}" not in SYNONYMS[name]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (
            "--dataset CIRR --model.use-gated-fusion",
            "there is no option --model.use-gated-fusion; --model.gated-fusion.strategy none "
            "trains without the fusion, and gated with it.",
        ),
        ("--dataset CIRR --gpu 1", "there is no option --gpu; --device is the nearest."),
        ("--dataset CIRR --colour red", "there is no option --colour; --help-all lists all."),
        (
            "--dataset CIRR --model.gated-fusion gated",
            "there is no option --model.gated-fusion; --model.gated-fusion.strategy none .*",
        ),
        ("--dataset CIRR --save-best=true", ".* takes no value .*; write --save-best or .*"),
        ("--dataset CIRR --no-save-best yes", ".* takes no value .*; write --save-best or .*"),
        ("--dataset CIRR --no-use-gated-fusion", ".*; --model.gated-fusion.strategy none .*"),
        ("--dataset CIRR --model gated", ".* a group of options; .*.strategy takes gated."),
        ("--dataset CIRR --output=", "--output has no value; give --output PATH."),
        ("--config=", "--config has no value; give --config PATH."),
        ("--config", "--config has no value; give --config PATH."),
        ("--config a.yaml extra", "extra belongs to no option; leave it out."),
        ("--dataset CIRR --model.visual-layers", ".* has no value; give .* INT .INT ....."),
        ("--dataset CIRR --model.visual-layers -1,a", ".* cannot be a; give .*"),
    ],
)
def test_a_refusal_says_what_to_do(argv, sentence):
    assert re.fullmatch(sentence, refusal(*argv.split()))


@dataclasses.dataclass(frozen=True)
class Renamed:
    """An option that had another name."""

    number: int
    skip: Annotated[bool, tyro.conf.arg(aliases=("--leave-out",))] = False


def test_an_alias_is_an_option_too():
    assert parse(Renamed, ["--number", "1", "--leave-out"], description="").skip
    for flags, sentence in (
        (["--leave-out"], "--number INT is missing; give it."),
        (["--number", "x", "--leave-out"], "--number cannot be x; give --number INT."),
        (["--number", "1", "--leave-uot"], "there is no option --leave-uot; --leave-out is .*"),
        (["--number", "1", "--leave-out", "no"], ".*; write --skip or --no-skip alone, .*"),
    ):
        with pytest.raises(UserError) as error:
            parse(Renamed, flags, description="")
        assert re.fullmatch(sentence, str(error.value))


def test_a_command_points_only_to_options_of_its_own():
    def told(*argv):
        with pytest.raises(UserError) as error:
            parse(evaluate.Options, ["--dataset", "CIRR", *argv], description="")
        return str(error.value).partition("; ")[2]

    assert told("--model", "x") == "--model-path is the nearest."
    for flag in ("--cache-features", "--resume", "--num-epochs"):
        assert told(flag, "x") == "it is an option of training, which this command does not take."
    assert "gated-fusion" not in told("--use-gated-fusion")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "model: {gated-fusion: }",
            "model.gated-fusion is a group of options and is empty .*; give it some of its options "
            "strategy, .* or leave it out.",
        ),
        ("model:", "model is a group of options and is empty .*"),
        ("seed:", "--seed has no value; give --seed INT."),
        ("backbone:", "--backbone has no value; give --backbone STR."),
        ("cache-features:", "--cache-features has no value; give .*"),
        ("model: {visual-layers: []}", "--model.visual-layers has no value; give .*"),
    ],
)
def test_an_empty_yaml_key(yaml_file, text, sentence):
    assert re.fullmatch(sentence, refusal("--config", yaml_file(f"dataset: CIRR\n{text}\n")))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: gated", "--model is a group of options .*; .*gated-fusion.strategy takes gated."),
        (
            "save-best: maybe",
            "--save-best takes no value such as maybe .*; write --save-best or .*",
        ),
        ("seed: true", "--seed cannot be True .*; give --seed INT."),
        ("config: y.yaml", ".* holds config; give --config on the command line instead."),
        ("help: true", ".* holds help; give --help on the command line instead."),
        ("seed: 1\nseed: 2", r".* is not valid YAML \(the key seed stands .*twice\); .* line 3."),
        ("model: {neck: none, neck: unet}", ".*the key neck stands there twice.* line 2."),
        ("model: &a {x: *a}", ".* holds a value that contains itself; write it out."),
        ("seed: &a [*a]", ".* holds a value that contains itself; write it out."),
    ],
)
def test_a_wrong_yaml_file_is_told_as_one(yaml_file, text, sentence):
    assert re.fullmatch(sentence, refusal("--config", yaml_file(f"dataset: CIRR\n{text}\n")))


def test_a_folder_as_a_config_file(tmp_path):
    assert "cannot be read (Is a directory)" in refusal("--config", str(tmp_path))
    assert "there is no config file" in refusal("--config", str(tmp_path / "no.yaml"))


def test_a_run_without_options_that_is_being_trained_is_in_use(tmp_path):
    assert "there is no run at" in refusal("--resume", str(tmp_path))
    claim = Claim(tmp_path)
    assert "is in use by another process" in refusal("--resume", str(tmp_path))
    claim.release()


def test_an_option_of_a_run_that_is_not_known_is_no_wrong_flag(tmp_path):
    (tmp_path / "config.yaml").write_text("dataset: CIRR\nloss-margin: 0.2\n")
    expected = f"{tmp_path} was trained with the option loss-margin, which this version does not"
    assert refusal("--resume", str(tmp_path)).startswith(expected)


def test_an_empty_yaml_key_is_none_where_none_is_taken(yaml_file):
    assert read("--config", yaml_file("dataset: CIRR\noutput-dir:\n")).run.output is None


def test_a_stray_word():
    assert refusal("--dataset", "CIRR", "extra").startswith("extra belongs to no option")


def test_a_refusal_names_the_file_that_options_came_from(yaml_file):
    path = yaml_file("dataset: CIRR\nsave-bets: true\n")
    assert f"(options were read from {path} too)" in refusal("--config", path)
    assert "read from" not in refusal("--dataset", "CIRR", "--save-bets")


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("batchsize: 3", "--batch-size"),
        ("batchsize:", "--batch-size"),
        ("save-bets: true", "--save-best"),
        ("model: {gated-fusion: {alpha: 1}}", "--model.gated-fusion.alpha-init"),
    ],
)
def test_unknown_yaml_key_names_the_nearest(yaml_file, line, nearest):
    message = refusal("--config", yaml_file(f"dataset: CIRR\n{line}\n"))
    assert message.endswith(f"; {nearest} is the nearest.")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (
            "--dataset COCO",
            "--dataset cannot be COCO; choose CIRR, FashionIQ, CIRCO or a path like .*",
        ),
        ("--dataset CIRR --batch-size many", "--batch-size cannot be many; give --batch-size INT."),
        ("--dataset CIRR --transform crop", "--transform .*; choose targetpad, .* or clip."),
        ("--dataset CIRR --blip-model-name blip3", "--blip-model-name .*; choose blip2_.*prompt."),
        ("--dataset CIRR --seed", "--seed has no value; give --seed INT."),
        ("--dataset CIRR --data-path", "--data-path has no value; give --data-path PATH."),
        ("--dataset CIRR --image-size big", "--image-size cannot be big; give --image-size INT."),
        ("--dataset CIRR --model.visual-layers a", "--model.visual-layers cannot be a; give .*"),
        (
            "",
            r"--dataset {CIRR,.*}\|my_file:MyData\|triplets.jsonl is missing; give it.",
        ),
    ],
)
def test_wrong_value_names_the_flag(argv, sentence):
    assert re.fullmatch(sentence, refusal(*argv.split()))


def test_wrong_yaml_value_names_the_flag(yaml_file):
    path = yaml_file("dataset: CIRR\nseed: [1, 2]\n")
    assert refusal("--config", path).startswith("2 belongs to no option")
    assert "--seed" in refusal("--config", yaml_file("dataset: CIRR\nseed: null\n"))


@pytest.mark.parametrize(
    ("words", "most", "judges", "says"),
    [
        ("--rerank 50", 50, False, True),
        ("--rerank=7", 7, False, True),
        ("--rerank 0", 0, False, False),
        ("--rerank 50", 50, True, False),
        ("", 50, False, False),
    ],
)
def test_a_rerank_that_has_no_effect_is_told(words, most, judges, says, capsys):
    say_without_judge(most, words.split(), judges=judges)
    assert capsys.readouterr().err.startswith("--rerank") == says
