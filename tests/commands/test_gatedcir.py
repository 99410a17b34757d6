"""The command `gatedcir`: its help, its version, and options that several subcommands share."""

import importlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import SHORT, bad, whole_checkpoint

from gatedcir.assemble.data import load_data
from gatedcir.commands import demo, describe, evaluate, gates, main, resize, submit, train
from gatedcir.commands.main import COMMANDS
from gatedcir.device import find_device
from gatedcir.errors import UserError
from gatedcir.models.weights.sources import load
from gatedcir.options.command_line import options_of
from gatedcir.options.config import Config, DataConfig
from gatedcir.options.parsing import parse
from gatedcir.pretrained import TrainedRetriever
from gatedcir.progress import bar
from gatedcir.run_folder import checkpoint
from gatedcir.run_folder.claim import Claim

ROOT = Path(__file__).parents[2]
PUBLISHED = {
    "blip_fine_tune_2": "train",
    "blip_validate": "evaluate",
    "cirr_test_submission": "submit",
    "visualize_gates": "gates",
    "visualize_fusion": "fusion",
    "ablate": "ablate",
    "export_weights": "export",
    "demo": "demo",
    "cache_features": "cache",
    "resize_images": "resize",
    "make_synthetic": "synthetic",
}
TOOLS = (  # scripts that are no commands
    *("bench_step", "bench_cache", "bench_reading", "bench_evaluation", "bench_recipes"),
    *("bench_multiscale", "bench_search", "pretrain_tiny", "check_recall", "compare_runs"),
    *("mutate_inputs", "fuzz_inputs", "chaos"),
)
HEAVY = ("torch", "PIL", "matplotlib", "transformers", "tqdm", "pandas")


def helped(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main.main(words)
    assert end.value.code == 0
    return capsys.readouterr().out


def test_every_command_is_listed_and_has_help_that_imports_nothing_large(capsys):
    main.main(["--help"])
    assert re.findall(r"^  (\w+)  ", capsys.readouterr().out, re.MULTILINE) == [*COMMANDS]
    code = f"""
import importlib, sys
sys.path = {sys.path}
from gatedcir.commands.main import COMMANDS, main
for name in [*COMMANDS, *{TOOLS}]:
    try:
        main([name, "--help"]) if name in COMMANDS else importlib.import_module(name).main(["-h"])
    except SystemExit as end:
        assert not end.code
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")
    assert done.stdout.count("usage: ") == len(COMMANDS) + len(TOOLS)


def test_help_has_groups_and_keeps_what_is_seldom_needed_apart(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    short, whole = helped(capsys, "train", "--help"), helped(capsys, "train", "--help-all")
    titles = ["data", "weights", "model", "losses", "optimiser", "recipes", "run", "every command"]
    for text in (short, whole):
        assert re.findall(r"^(\w[\w ]+):$", text, re.MULTILINE) == titles
        assert "--config FILE" in text and "--dataset {CIRR,FashionIQ,CIRCO}" in text
        assert max(map(len, re.sub(r"  --.*", "", text).splitlines())) <= 90
    seldom = {option.flag for option in options_of(Config) if option.seldom}
    assert {"--draft", "--loss-itm", "--warmup"} < seldom
    shown, all_flags = (set(re.findall(r"^  (--[\w.-]+)", t, re.MULTILINE)) for t in (short, whole))
    assert all_flags - shown == seldom
    assert f"{len(seldom)} rarely used ones" in short
    assert "runs are replaced. (default: demo)" in " ".join(helped(capsys, "demo", "-h").split())


def test_help_of_evaluate_says_what_the_run_decides(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    text = " ".join(helped(capsys, "evaluate", "--help-all").split())
    for flag in ("fashioniq-categories", "fashioniq-protocol", "gallery", "skip-unreadable"):
        _, _, behind = text.partition(f"--{flag}")
        assert behind.partition("(default: ")[2].startswith("as the run has it, or for"), flag
    assert "(default: 2)" in text  # of --num-workers, which is not the run's


def test_version_and_unknown_commands(capsys):
    main.main(["--version"])
    assert re.fullmatch(r"gatedcir \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)
    for word, way_out in (("trian", "train is the nearest."), ("x", "gatedcir --help lists all.")):
        with pytest.raises(UserError, match=f"there is no command {word}; {way_out}"):
            main.main([word])


@pytest.mark.parametrize("script", PUBLISHED)
def test_published_names_are_the_same_functions(script):
    command = importlib.import_module(f"gatedcir.commands.{PUBLISHED[script]}")
    assert importlib.import_module(script).main is command.main


def test_the_module_is_the_command(tmp_path):
    command = [sys.executable, "-m", "gatedcir", "evaluate"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: --model-path PATH is missing; give it.\n"


def test_evaluation_takes_its_data_from_the_run(home, cirr_run, tmp_path, capsys):
    def found(*flags):
        file = tmp_path / "out.json"
        evaluate.main([*map(str, flags), "--output", str(file), "--num-workers", "0"])
        return json.loads(file.read_text())

    data = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset"]
    given = found("--model-path", cirr_run, *data)
    printed = capsys.readouterr().out
    low, high = given["intervals"]["recall_at10"]
    assert f"[{low:.2f}, {high:.2f}]" in printed and "one half solves" in printed
    assert low <= given["metrics"]["recall_at10"] <= high
    files = ["--ranks", tmp_path / "ranks.csv", "--trec", tmp_path / "run.trec"]
    alone = found("--model-path", cirr_run, *files, "--no-composition")
    assert alone == {n: v for n, v in given.items() if n not in ("composition", "single_inputs")}
    table = pd.read_csv(tmp_path / "ranks.csv")
    assert 100 * (table["rank"] <= 5).mean() == pytest.approx(given["metrics"]["recall_at5"])
    assert len((tmp_path / "run.trec.qrels").read_text().splitlines()) == len(table)
    bad(evaluate, ["--model-path", cirr_run, "--ranks", tmp_path / "a.txt"], "--ranks", ".csv")
    assert found("--model-path", cirr_run, "--gallery", "all")["protocol"] != given["protocol"]
    [name] = found("--model-path", cirr_run, "--split", "train")["protocol"]
    assert name == "CIRR train"
    bad(evaluate, ["--model-path", cirr_run, "--split", "test"], "CIRR test1", "gatedcir submit")
    bad(evaluate, ["--model-path", "tiny"], "tiny was trained on no dataset", "--dataset")
    bad(evaluate, ["--model-path", cirr_run, "--data-path", tmp_path / "no"], "no folder")


def test_a_run_of_fashioniq_names_its_categories(home, cirr_run, tmp_path, capsys):
    run = checkpoint.load(cirr_run)
    places = {"data-path": str(home / "fashionIQ_dataset"), "dataset": "FashionIQ"}
    options = run.config | places | {"fashioniq-categories": ["shirt"]}
    checkpoint.save(tmp_path / "model.pt", replace(run, config=options))
    evaluate.main(["--model-path", str(tmp_path / "model.pt"), "--num-workers", "0"])
    printed = capsys.readouterr().out
    assert "FashionIQ shirt val" in printed and "dress" not in printed


def test_a_limit_takes_the_first_triplets_and_says_so(home, cirr_run, tmp_path, capsys):
    data = DataConfig("CIRR", home / "cirr_dataset")
    [whole], [few] = (load_data(replace(data, limit=n), "val")[0] for n in (None, 2))
    assert few.triplets == whole.triplets[:2] and few.gallery == whole.gallery
    assert few.protocol == whole.protocol.replace(
        ", synthetic data", ", only the first 2 of them, synthetic data"
    )
    [[train_few]] = load_data(replace(data, limit=2), "train")
    used = {name for t in train_few.triplets for name in (t.reference, t.target)}
    assert set(train_few.gallery) == set(train_few.paths) == used
    assert load_data(replace(data, limit=999), "val") == load_data(data, "val")
    run = tmp_path / "run"
    flags = ["--dataset", "CIRR", "--data-path", str(data.folder), *SHORT, "--num-epochs", "1"]
    train.main([*flags, "--limit", "4", "--no-save", "--output", str(run)])
    made_by = json.loads((run / "provenance.json").read_text())
    assert "only the first 4 of 8" in made_by["data"]["CIRR train"]
    evaluate.main(["--model-path", str(cirr_run), "--limit", "1"])
    assert "6 queries, only the first 1 of them" in capsys.readouterr().out
    bad(evaluate, ["--model-path", cirr_run, "--limit", 0], "--limit 0", "1 or more")


def test_the_file_of_an_evaluation_has_the_name_of_all_outputs():
    for name in ("--output", "--json"):
        flags = ["--model-path", "x", name, "y.json"]
        assert parse(evaluate.Options, flags, description="").output == Path("y.json")


def test_a_submission_takes_the_data_and_categories_of_the_run(home, cirr_run, tmp_path, capsys):
    run = checkpoint.load(cirr_run)
    data = {"dataset": "FashionIQ", "data-path": str(home / "fashionIQ_dataset")}
    more = {"fashioniq-categories": ["dress", "shirt"]}
    file = tmp_path / "model.pt"
    checkpoint.save(file, replace(run, config={**run.config, **data, **more}))
    flags = ["--model-path", str(file), "--num-workers", "0", "--output"]
    submit.main([*flags, str(tmp_path / "both"), "--limit", "2"])
    both = sorted((tmp_path / "both").iterdir())
    assert [path.name for path in both] == ["dress.test.pred.json", "shirt.test.pred.json"]
    assert all(len(json.loads(path.read_text())) == 2 for path in both)
    assert "only the first 2 of them" in capsys.readouterr().out
    submit.main([*flags, str(tmp_path / "one"), "--fashioniq-categories", "toptee"])
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["toptee.test.pred.json"]


def test_folders_in_use_and_files_in_their_place_are_refused(cirr_run, home, tmp_path):
    image = next((home / "fashionIQ_dataset" / "images").iterdir())
    drawn = ["--image", image, "--text", "is red", "--model-path", cirr_run, "--output"]
    answers = ["--model-path", cirr_run, "--output"]
    claim = Claim(tmp_path / "run")
    bad(submit, [*answers, tmp_path / "run"], "is in use by another process", "--output")
    bad(gates, [*drawn, tmp_path / "run"], "is in use by another process", "--output")
    claim.release()
    (tmp_path / "file").touch()
    bad(gates, [*drawn, tmp_path / "file"], "--output needs the folder", "which is a file")
    page = tmp_path / "README.md"
    page.write_text("# A page")
    drawn[1] = page
    bad(gates, [*drawn, tmp_path / "maps"], f"--image {page} cannot be read (no image); name ano")
    bad(gates, [*drawn, tmp_path / "maps", "--text", ""], "--text has no value")


def test_help_says_which_data_sets_of_ones_own_are_taken(capsys):
    for command, part in ((submit, "a `submission`"), (resize, "`copies`")):
        with pytest.raises(SystemExit):
            command.main(["--help"])
        printed = " ".join(capsys.readouterr().out.split())
        assert f"One of your own needs a Benchmark with {part}." in printed


def test_devices_are_chosen_by_name(home, cirr_run, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    flags = ["--model-path", cirr_run, "--device", "cuda:1"]
    bad(evaluate, flags, "--device cuda:1 needs a GPU", "cpu")
    image = next((home / "fashionIQ_dataset" / "images").iterdir())
    drawn = ["--image", image, "--text", "is red", "--output", tmp_path / "maps"]
    bad(gates, [*flags, *drawn], "needs a GPU")
    data = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset", "--device", "gpu"]
    bad(train, [*data, "--output", tmp_path / "run"], "there is no --device gpu; choose auto, cpu.")
    assert not (tmp_path / "run").exists() and not (tmp_path / "maps").exists()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("auto") == torch.device("cuda")
    assert find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="choose auto, cpu, cuda, cuda:0, cuda:1"):
        find_device("cuda:2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    bad(train, [*data[:-1], "cuda:1", "--output", tmp_path / "run"], "is for one process")


def test_quiet_hides_all_bars(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GATEDCIR_QUIET", "")
    monkeypatch.delenv("GATEDCIR_QUIET")
    assert not bar([1]).disable and bar([1], show=False).disable
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    flags += ["--num-epochs", "1", "--no-save", "--skip-unreadable"]
    capsys.readouterr()
    train.main([*flags, "--output", str(tmp_path / "loud")])
    assert "epoch 0: 100%" in capsys.readouterr().err
    train.main([*flags, "--output", str(tmp_path / "run"), "--quiet"])
    assert "%|" not in capsys.readouterr().err


def test_output_had_another_name(yaml_file, cirr_run, tmp_path, capsys):
    old = parse(Config, ["--config", yaml_file("dataset: CIRR\noutput-dir: a\n")], description="")
    assert old.run.output == Path("a")
    for name in ("--output-dir", "--output_dir"):
        flags = ["--config", yaml_file("dataset: CIRR\noutput: a\n"), name, "b"]
        assert parse(Config, flags, description="").run.output == Path("b")
    found = parse(submit.Options, ["--model-path", "x", "--output-dir", "y"], description="")
    assert found.output == Path("y")
    # A run of release 0.1 opens, and what it says of its folder is no unknown option.
    run = checkpoint.load(cirr_run)
    options = {("output-dir" if name == "output" else name): v for name, v in run.config.items()}
    checkpoint.save(tmp_path / "old.pt", replace(run, config=options))
    capsys.readouterr()
    opened = TrainedRetriever.from_pretrained(tmp_path / "old.pt")
    assert "left out" not in capsys.readouterr().out
    assert opened.config.run.output == cirr_run
    opened.save_pretrained(tmp_path / "hub")
    kept = json.loads((tmp_path / "hub" / "config.json").read_text())["gatedcir"]["options"]
    assert kept["output"] is None and "output-dir" not in kept


def test_a_description_counts_all_parameters(cirr_run, capsys):
    describe.main(["--model-path", str(cirr_run)])
    printed = capsys.readouterr().out
    run = whole_checkpoint(cirr_run)
    own = load(str(cirr_run)).own
    count = sum(weight.numel() for weight in run.weights.values())
    [total] = re.findall(r"^  all +([\d,]+) ", printed, re.MULTILINE)
    assert int(total.replace(",", "")) == count
    for name, weight in own.items():
        shape = " x ".join(map(str, weight.shape)) or "one number"
        assert f"  {name}: {shape}\n" in printed
    assert yaml.safe_load(printed.partition("\noptions:\n")[2]) == run.config


def test_the_demo_trains_as_the_config_for_tiny_says(tmp_path):
    found = demo.training(demo.Options(output=tmp_path), tmp_path / "data", "gated")
    flags = ["--config", str(ROOT / "configs" / "tiny.yaml"), "--dataset", "CIRR"]
    expected = parse(Config, [*flags, "--num-epochs", "1"], description="")
    assert replace(found, data=expected.data, run=expected.run) == expected
    assert found.run.save_training == expected.run.save_training
    assert found.run.save_best == expected.run.save_best
