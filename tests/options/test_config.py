"""One typed description of all options: flags, YAML files and their errors."""

import ast
import dataclasses
import itertools
import re
import typing
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from option_fixtures import read, refusal

from gatedcir.commands.pictures import Options as Pictures
from gatedcir.errors import UserError
from gatedcir.options import config, model_config, recipe_config
from gatedcir.options.command_line import flag_names, options_of
from gatedcir.options.config import Config
from gatedcir.options.parsing import flags_of, from_dict, parse, read_yaml, to_dict
from gatedcir.options.refusals import quietly

PACKAGE = Path(config.__file__).parents[1]
OPTION_FILES = (config, model_config, recipe_config)
PUBLISHED = (
    "--blip-model-name blip2_cir_align_prompt --backbone pretrain --num-epochs 10 --batch-size 64 "
    "--learning-rate 1e-5 --loss-align 0.4 --loss-rtc 0.4 --validation-frequency 1 "
    "--save-training --save-best --target-ratio 1.25 --transform targetpad"
)


def leaves(options=Config, prefix=""):
    """(section class, field name, flag) of every option that is not a group."""
    for item in dataclasses.fields(options):
        kind = item.type.__origin__ if hasattr(item.type, "__origin__") else item.type
        if dataclasses.is_dataclass(kind):
            nested = item.name in ("model", "gated_fusion")
            name = item.name.replace("_", "-")
            yield from leaves(kind, f"{prefix}{name}." if nested else prefix)
        else:
            yield options, item.name, "--" + prefix + item.name.replace("_", "-")


def texts():
    """What the files of options say of each: below it, or in the type that it shares."""
    found, shared = {}, {}
    groups = [
        (module, group)
        for module in OPTION_FILES
        for group in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body
    ]
    for module, group in groups:
        if isinstance(group, ast.Assign) and "help=" in ast.unparse(group):
            words = [node for node in ast.walk(group) if isinstance(node, ast.keyword)]
            [keyword] = [node for node in words if node.arg == "help"]
            name = group.targets[0].id
            mark = typing.get_args(getattr(module, name))[-1]
            shared[name] = getattr(keyword.value, "value", None) or mark.help
        elif isinstance(group, ast.ClassDef):
            for item, after in zip(group.body, [*group.body[1:], None], strict=True):
                if isinstance(item, ast.AnnAssign):
                    own = after.value.value if isinstance(after, ast.Expr) else None
                    text = own or shared.get(ast.unparse(item.annotation), "")
                    found[group.name, item.target.id] = " ".join(text.split())
    return found


@pytest.mark.parametrize("dataset", ["CIRR", "FashionIQ"])
def test_published_command_line(dataset):
    found = read("--dataset", dataset, *PUBLISHED.split())
    values = to_dict(found)
    expected = {
        "dataset": dataset,
        "blip-model-name": "blip2_cir_align_prompt",
        "backbone": "pretrain",
        "num-epochs": 10,
        "batch-size": 64,
        "learning-rate": 1e-5,
        "loss-align": 0.4,
        "loss-rtc": 0.4,
        "validation-frequency": 1,
        "save-training": True,
        "save-best": True,
        "target-ratio": 1.25,
        "transform": "targetpad",
    }
    assert {name: values[name] for name in expected} == expected
    assert found.data.folder == Path("cirr_dataset" if dataset == "CIRR" else "fashionIQ_dataset")


def test_round_trip_of_other_values(tmp_path):
    flags = (
        f"--dataset FashionIQ --data-path {tmp_path} --fashioniq-protocol val-split --skip-missing "
        "--num-workers 0 --backbone coco --train-vision --loss-align 0 --learning-rate 3e-7 "
        f"--mixed-precision fp32 --output {tmp_path / 'a b'} --save-best --cache-features none "
        "--model.gated-fusion.strategy additive --model.gated-fusion.alpha-init -0.25 "
        "--model.gated-fusion.start identity"
    ).split(" ")
    joined = flags.index(str(tmp_path / "a"))
    flags[joined : joined + 2] = [f"{flags[joined]} b"]
    found = read(*flags)
    assert found.run.output == tmp_path / "a b"
    assert found.data.folder == tmp_path
    assert found.model.gated_fusion.alpha_init == -0.25
    values = to_dict(found)
    assert from_dict(Config, values) == found
    # What a run folder keeps has been through YAML.
    assert from_dict(Config, yaml.safe_load(yaml.safe_dump(values))) == found
    assert from_dict(Config, to_dict(read("--dataset", "CIRR"))) == read("--dataset", "CIRR")


def test_to_dict_has_every_flag_once():
    values = to_dict(read("--dataset", "CIRR"))
    names = [name for name in flags_of(values) if name.startswith("--")]
    switched_on = [name.replace("--no-", "--").replace(".no-", ".") for name in names]
    assert switched_on == [flag for *_, flag in leaves()]


def test_yaml_file_and_overriding_flags(yaml_file):
    path = yaml_file(
        "dataset: CIRR\nlearning-rate: 1e-4\nbatch_size: 8\nsave-best: true\nsave_training: false\n"
        "model:\n  gated-fusion: {strategy: none}\n  gated_fusion: {alpha_init: 0.1}\n"
    )
    found = read("--config", path)
    assert found.optim.learning_rate == 1e-4
    assert found.optim.batch_size == 8
    assert found.run.save_best
    assert not found.run.save_training
    assert found.model.gated_fusion.strategy == "none"
    assert found.model.gated_fusion.alpha_init == 0.1
    over = ["--batch_size", "16", "--no-save-best", "--model.gated_fusion.strategy", "gated"]
    for argv in ([*over, "--config", path], ["--config", path, *over]):
        found = read(*argv)
        assert found.optim.batch_size == 16
        assert not found.run.save_best
        assert found.model.gated_fusion.strategy == "gated"
        assert found.optim.learning_rate == 1e-4


@pytest.mark.parametrize("given", ["-1,-4", "-1, -4", "[-1, -4]", "-1 -4"])
def test_lists_are_read_with_commas_and_brackets(yaml_file, given):
    assert read("--dataset", "CIRR", "--model.visual-layers", given).model.visual_layers == (-1, -4)
    text = f"dataset: CIRR\nmodel: {{visual-layers: '{given}'}}\n"
    assert read("--config", yaml_file(text)).model.visual_layers == (-1, -4)


def test_listed_values_are_taken_in_any_letter_case():
    found = read("--dataset", "fashioniq", "--mixed-precision", "BF16", "--cache-features", "Auto")
    assert (found.data.dataset, found.optim.mixed_precision) == ("FashionIQ", "bf16")
    assert found.run.cache_features == Path("Auto")  # a folder may have any name


def test_values_are_not_taken_for_misspelt_flags():
    assert read("--dataset", "CIRR", "--output", "config").run.output == Path("config")


def test_the_names_of_flags_are_those_of_the_parser():
    old = {"--skip-missing", "--output-dir", "--model.visual-fusion", "--from"}
    expected = {flag for _, _, flag in leaves()} | old
    assert {flag for flag in flag_names(Config) if "no-" not in flag} == expected
    lines = defaultdict(list)  # the first names of all options, the second names, and so on
    for option in options_of(Config):
        named = re.findall(r"\{(\w+)", option.usage)  # of the values that it takes, the first
        values = [] if option.kind is bool else [*named, "1"][:1]
        for place, name in enumerate(option.names):
            lines[place] += [name, *values]
    for line in lines.values():  # the parser knows each
        quietly(Config, ["--dataset", "CIRR", *line])
    with pytest.raises(SystemExit):
        quietly(Config, ["--dataset", "CIRR", "--nothing", "1"])


@pytest.mark.parametrize("content", ["", "- CIRR\n", "CIRR\n", "a: [\n", "a: b: c\n"])
def test_unusable_yaml(yaml_file, content):
    path = yaml_file(content)
    with pytest.raises(UserError, match=re.escape(path)):
        read("--config", path)


def test_broken_yaml_names_the_line(yaml_file):
    with pytest.raises(UserError, match="correct line 2"):
        read("--config", yaml_file("dataset: CIRR\na: b: c\n"))


def test_missing_yaml(tmp_path, yaml_file):
    missing = tmp_path / "none.yaml"
    with pytest.raises(UserError, match=re.escape(str(missing))):
        read_yaml(missing)
    with pytest.raises(UserError, match="no config file"):
        read("--config", str(tmp_path / "no.yaml"))
    with pytest.raises(UserError, match=r"no run at .* to resume"):
        read("--resume", yaml_file("dataset: CIRR\n"))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary\.yaml"):
        read_yaml(binary)


def test_resume_reads_the_options_of_the_run(tmp_path):
    first = read("--dataset", "FashionIQ", "--seed", "7", "--output", str(tmp_path))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(first)), encoding="utf-8")
    found = read("--resume", str(tmp_path), "--num-epochs", "20")
    assert found.run.resume == found.run.output == tmp_path
    assert (found.data.dataset, found.optim.seed, found.optim.num_epochs) == ("FashionIQ", 7, 20)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(found)), encoding="utf-8")
    assert read("--resume", str(tmp_path)) == found
    foreign = to_dict(found) | {"old-option": 1}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(foreign), encoding="utf-8")
    message = refusal("--resume", str(tmp_path))
    assert message.startswith(f"{tmp_path} was trained with the option old-option, which this")
    with pytest.raises(UserError, match=r"no run at .*other to resume"):
        read("--resume", str(tmp_path / "other"))
    for flags in (["--config", "other.yaml"], ["--output=elsewhere"]):
        with pytest.raises(UserError, match=r"--\w+(-dir)? has no effect together with --resume"):
            read("--resume", str(tmp_path), *flags)


def test_every_field_is_read():
    seen = set()
    for path in PACKAGE.parent.rglob("*.py"):
        inside = path in [Path(module.__file__) for module in OPTION_FILES]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                own = isinstance(node.value, ast.Name) and node.value.id == "self"
                # In these files only properties read options; elsewhere `self` is no config.
                if own == inside:
                    seen.add(node.attr)
    assert [flag for _, name, flag in leaves() if name not in seen] == []


def test_no_two_options_say_the_same():
    root, files = PACKAGE.parents[1], ("src/**/*.py", "scripts/**/*.py", "data_preparation/*.py")
    meanings = []
    for path in (path for pattern in files for path in root.glob(pattern)):
        for group in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(group, ast.ClassDef) and ast.get_docstring(group):
                for item, after in itertools.pairwise(group.body):
                    if isinstance(item, ast.AnnAssign) and isinstance(after, ast.Expr):
                        meanings.append((item.target.id, after.value.value))
    assert len(meanings) > 60
    assert len(set(meanings)) == len(meanings)


def test_help_explains_every_field(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as error:
        read("--help-all")
    assert error.value.code == 0
    shown = " ".join(re.sub(r"[─-╿]", " ", capsys.readouterr().out).split())
    for options, name, flag in leaves():
        after_flag = shown.split(f"{flag} ", 1)[-1] if f"{flag} " in shown else shown
        after_flag = after_flag if f"{flag}, " not in shown else shown.split(f"{flag}, ", 1)[1]
        assert texts()[options.__name__, name] in after_flag[:1100], flag


def test_a_flag_that_may_be_repeated_keeps_each_value_whole():
    given = ["--model-path", "run", "--output", "out", "--image", "a.png"]
    texts = ["is red, not blue", "--no dots", "[plain]"]
    words = [word for text in texts for word in ("--text", text)]
    words[3] = "--text=--no dots"
    del words[2]
    found = parse(Pictures, [*given, *words], description="")
    assert found.text == tuple(texts)
    assert parse(Pictures, given, description="").text == ()
    with pytest.raises(UserError, match=r"^dog belongs to no option; "):
        parse(Pictures, [*given, "--text", "a", "dog"], description="")
    with pytest.raises(UserError, match=r"^--text has no value; give --text STR"):
        parse(Pictures, [*given, "--text"], description="")


@pytest.mark.parametrize(
    ("flag", "wrong", "allowed"),
    [
        ("--num-epochs", "0", "of 1 or more"),
        ("--learning-rate", "nan", "of 0 or more"),
        ("--warmup", "1", "of 0 or more, and less than 1"),
        ("--model.gated-fusion.dropout", "-0.1", "of 0 or more, and less than 1"),
        ("--model.gated-fusion.alpha-init", "inf", "that is finite"),
        ("--seed", str(2**32), f"of 0 or more, and less than {2**32}"),
    ],
)
def test_numbers_out_of_their_range_are_refused(flag, wrong, allowed):
    with pytest.raises(UserError, match=f"^{flag} .* is out of range; give a number {allowed}.$"):
        read("--dataset", "CIRR", flag, wrong)
