"""A fusion and a data set of one's own, in files outside of the package, through all commands."""

import csv
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import ablate
import cache_features
import export_weights
import pytest
import resize_images
import torch
import visualize_gates
import yaml
from conftest import SHORT, bad

import blip_fine_tune_2
import blip_validate
import cirr_test_submission
from gatedcir.benchmarks.registry import BENCHMARKS
from gatedcir.errors import UserError
from gatedcir.models.gated_fusion.own import check_own
from gatedcir.models.gated_fusion.strategies import STRATEGIES, Strategy
from gatedcir.options.config import Config
from gatedcir.options.parsing import from_dict, parse
from gatedcir.plugins import find
from gatedcir.pretrained import TrainedRetriever
from gatedcir.run_folder import checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorials" / "own_fusion.py"
MORE_DATA = """
not_data = {"name": "My data"}


def read_badly(root, split, **keywords):
    return {}["id"]


def read_rows(root, split, **keywords):
    return [["a", "b"]]


def measure_badly(answers):
    return 1 / 0


BadReader = Benchmark(name="Bad reader", read=read_badly)
RowReader = Benchmark(name="Row reader", read=read_rows)
BadMetrics = Benchmark(name="Bad metrics", read=read, metrics=measure_badly)
"""
MY_FUSION = """
from own_fusion_class import FilmFusion as MyFusion
import torch
from torch import nn


def without_start(vision_width, text_width, *, alpha_init, dropout):
    return nn.Identity()


def no_module(vision_width, text_width, **keywords):
    return "a fusion"


class Raises(nn.Module):
    def __init__(self, vision_width, text_width, **keywords):
        raise KeyError("film")


class Returns(nn.Module):
    def __init__(self, vision_width, text_width, **keywords):
        super().__init__()

    def forward(self, image, text, text_mask):
        return self.output(image)


class NoPair(Returns):
    def output(self, image):
        return (image,)


class ThreeTokens(Returns):
    def output(self, image):
        return image[:, :3], {}


class NoAux(Returns):
    def output(self, image):
        return image, None


class NoTokens(Returns):
    def output(self, image):
        return None, {}


class Fails(Returns):
    def output(self, image):
        return torch.zeros(2, 3) @ image, {}


number = 3
"""


@pytest.fixture(scope="module")
def work(home, tmp_path_factory):
    """A folder with both files and 14 pictures with queries, where commands are started."""
    folder = tmp_path_factory.mktemp("work")
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    [my_data] = [block for block in code if "MyData = Benchmark(" in block]
    (folder / "my_file.py").write_text(my_data + MORE_DATA + MY_FUSION)
    cells = TUTORIAL.read_text().split("# %%")
    code = next(cell for cell in cells if "class FilmFusion" in cell)
    (folder / "own_fusion_class.py").write_text(code)
    (folder / "broken.py").write_text("import nothing_of_this_name\n")
    images = folder / "photos" / "images"
    images.mkdir(parents=True)
    names = [f"{number:02}.png" for number in range(14)]
    for name, file in zip(
        names, sorted((home / "cirr_dataset" / "dev").rglob("*.png")), strict=False
    ):
        shutil.copyfile(file, images / name)
    with (folder / "photos" / "queries.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "split", "reference", "targets", "text"])
        for number in range(10):
            right = f"{names[number + 1]} {names[number + 3]}"
            table.writerow([number, "train", names[number], right, f"is {number} times red"])
        for number in range(6):
            table.writerow([f"v{number}", "val", names[number], names[number + 2], "no sky"])
        table.writerow(["t0", "test", names[0], "", "two dogs"])
    return folder


@pytest.fixture(autouse=True)
def here(work, monkeypatch):
    """Started there; nothing of it stays importable."""
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("my_file", "own_fusion_class", "broken"):
        sys.modules.pop(name, None)


MINE = ["--dataset", "my_file:MyData", "--data-path", "photos"]
FILM = ["--model.gated-fusion.strategy", "my_file:MyFusion"]
QUICK = [*SHORT, "--num-epochs", "1", "--batch-size", "4"]


def elsewhere(monkeypatch, tmp_path):
    """Another folder, where the files cannot be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "path", [place for place in sys.path if "work" not in Path(place).name]
    )
    sys.modules.pop("my_file", None)


def test_a_fusion_goes_through_all_commands(work, home, tmp_path, monkeypatch, capsys):
    data = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset")]
    config = tmp_path / "film.yaml"
    config.write_text("model: {gated-fusion: {strategy: 'my_file:MyFusion', start: identity}}\n")
    run = work / "film"
    blip_fine_tune_2.main(
        ["--config", str(config), *data, *QUICK, "--save-training", "--output-dir", str(run)]
    )
    assert "alpha" in (run / "train_metrics.csv").read_text().splitlines()[0]
    kept = checkpoint.load(run).config["model"]["gated-fusion"]
    assert kept["strategy"] == "my_file:MyFusion"
    options = yaml.safe_load((run / "config.yaml").read_text())
    assert from_dict(Config, options).model.gated_fusion.strategy == "my_file:MyFusion"

    found = work / "film.json"
    workers = ["--num-workers", "0"]
    blip_validate.main(["--model-path", str(run), *data, *workers, "--json", str(found)])
    assert json.loads(found.read_text())["metrics"] == checkpoint.load(run).metrics

    flags = ["--model-path", str(run), *data, "--output", "maps"]
    assert "this model has no gate" in bad(
        visualize_gates, flags, "gated, interpolate", "attentive"
    )

    blip_fine_tune_2.main(["--resume", str(run), "--num-epochs", "1"])
    assert "nothing is to do" in capsys.readouterr().out

    export_weights.main(
        ["--format", "hub", "--model-path", str(run), "--output", str(work / "film_folder")]
    )
    weights = TrainedRetriever.from_pretrained(run).model.state_dict()
    again = TrainedRetriever.from_pretrained(work / "film_folder")
    assert type(again.model.fusion).__name__ == "FilmFusion"
    assert all(torch.equal(weight, again.model.state_dict()[n]) for n, weight in weights.items())

    elsewhere(monkeypatch, tmp_path)
    with pytest.raises(UserError, match="my_file:MyFusion needs the module my_file, which is"):
        TrainedRetriever.from_pretrained(run)
    monkeypatch.syspath_prepend(str(work))
    assert TrainedRetriever.from_pretrained(run).config.model.gated_fusion.start == "identity"


def test_a_fusion_is_a_cell_of_a_grid(work, home, capsys):
    Path("grid.yaml").write_text(
        'baseline: film\ncells: {film: {model: {gated-fusion: {strategy: "my_file:MyFusion"}}}}\n'
    )
    flags = ["--grid", "grid.yaml", "--seeds", "1", "--output", "grid", *QUICK]
    ablate.main([*flags, *MINE])
    page = Path("grid/report.md").read_text()
    assert "1 of 1 runs finished" in page
    assert "## recall_at5\n" in page and re.search(
        r"\| cell +\| +R@1 \| +R@5 \| +R@10 \| +R@50 \|", page
    )
    assert "strategy: my_file:MyFusion" in page and "dataset: my_file:MyData" in page
    Path("wrong.yaml").write_text(Path("grid.yaml").read_text().replace("MyFusion", "number"))
    flags[1] = "wrong.yaml"
    bad(ablate, [*flags, *MINE, "--output", "other"], "cell film", "is no fusion strategy")
    assert not Path("other").exists()


def test_a_data_set_goes_through_all_commands(work, tmp_path, monkeypatch, capsys):
    run, found = work / "mine", work / "mine.json"
    cache_features.main([*MINE, *SHORT, "--cache-features", "features"])
    assert "14 images" in capsys.readouterr().out
    flags = [*MINE, *QUICK, "--cache-features", "features", "--save-training"]
    blip_fine_tune_2.main([*flags, "--output-dir", str(run)])
    printed = capsys.readouterr().out
    assert "My data val: gallery of 14 images" in printed and "recall_at5" in printed
    columns = (run / "validation_metrics.csv").read_text().splitlines()[0].split(",")
    assert columns == ["epoch", "recall_at1", "recall_at5", "recall_at10", "recall_at50"]
    metrics = checkpoint.load(run).metrics  # the best by the headline
    assert metrics["recall_at50"] == 100

    blip_validate.main(
        ["--model-path", str(run), *MINE, "--num-workers", "0", "--json", str(found)]
    )
    content = json.loads(found.read_text())
    assert content["metrics"] == metrics and content["trained_on"] == "My data"
    assert "was trained on" not in capsys.readouterr().out

    visualize_gates.main(["--model-path", str(run), *MINE, "--num", "2", "--output", "maps"])
    assert len(list(Path("maps").iterdir())) == 2

    export_weights.main(["--format", "hub", "--model-path", str(run), "--output", "mine_folder"])
    card = Path("mine_folder/README.md").read_text()
    assert "type: mydata" in card and "on My data, 1 epoch" in card

    options = ["--model-path", str(run), *MINE, "--output-dir", "answers"]
    bad(cirr_test_submission, options, "my_file:MyData has no test server")
    bad(
        resize_images,
        [*MINE, "--output", "small"],
        "copies of my_file:MyData",
        "CIRR and FashionIQ",
    )
    assert not Path("answers").exists() and not Path("small").exists()

    # A run opens without its data set, whose file is asked for where it is evaluated on.
    elsewhere(monkeypatch, tmp_path)
    assert TrainedRetriever.from_pretrained(run).epoch == 1
    with pytest.raises(UserError, match="data set my_file:MyData needs the module my_file"):
        blip_validate.main(["--model-path", str(run), *MINE])


def test_a_run_without_a_folder_is_named_after_the_data_set(work, capsys):
    blip_fine_tune_2.main([*MINE, *QUICK, "--no-save"])
    [run] = Path("runs").iterdir()
    assert run.name.startswith("my-data-blip2_cir_align_prompt-")


def test_names_of_this_process_alone_are_refused_before_training(work, home, monkeypatch, tmp_path):
    data = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset"]
    flags = [*QUICK, "--output", tmp_path / "run"]
    monkeypatch.setitem(STRATEGIES, "film", Strategy("my_file:MyFusion", "as the tutorial's"))
    bad(
        blip_fine_tune_2,
        [*data, *flags, FILM[0], "film"],
        "the fusion strategy film is registered in this process only, so that a checkpoint",
        "name it by its path, --model.gated-fusion.strategy my_file:MyFusion.",
    )
    monkeypatch.setitem(BENCHMARKS, "Mine", find("my_file:MyData", what="data set"))
    words = "the data set Mine is registered in this process only"
    bad(blip_fine_tune_2, ["--dataset", "Mine", *MINE[2:], *flags], words, "--dataset my_file:MyD")
    assert not (tmp_path / "run").exists()


def test_own_metrics_that_fail_are_named(work):
    found = find("my_file:BadMetrics", what="data set")
    with pytest.raises(
        UserError, match=r"function metrics of Bad metrics fails in .*ZeroDivisionE"
    ):
        found.measure([])


def test_a_check_of_a_fusion_leaves_no_trace(work):
    fusion = find("my_file:MyFusion", what="fusion strategy")(
        8, 6, alpha_init=0.5, dropout=0.5, start="seed"
    )
    torch.manual_seed(0)
    check_own(fusion, "my_file:MyFusion", tokens=5, width=8, text_width=6)
    assert fusion.training
    after = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(3))


def test_what_nobody_knows_the_answers_of_is_not_measured(work):
    from gatedcir.assemble.evaluator import open_evaluator
    from gatedcir.evaluation.evaluator import validate
    from gatedcir.options.config import DataConfig

    data = DataConfig("my_file:MyData", Path("photos"), num_workers=0)
    evaluator, splits = open_evaluator(Path("tiny"), data, "test")
    with pytest.raises(UserError, match="My data test publishes no targets"):
        validate(evaluator, splits)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere:MyFusion", "needs the module nowhere, which is neither in"),
        ("my_file:Other", "my_file.py has no Other; correct the name."),
        ("broken:MyFusion", "importing broken fails (ModuleNotFoundError: No module named 'noth"),
        ("my_file:number", "my_file:number is no fusion strategy; name a class of torch.nn.Module"),
        ("my_file:no_module", "my_file:no_module is no fusion strategy"),
        ("my_file:without_start", "unexpected keyword argument 'start'"),
        ("collections:OrderedDict", "OrderedDict cannot be made as a fusion strategy"),
        ("my_file:Raises", "the fusion strategy my_file:Raises fails in line "),
        ("my_file:Raises", "my_file.py (KeyError: 'film'); mend it."),
        ("my_file:Fails", "my_file.py (RuntimeError: "),
        ("my_file:NoPair", "my_file:NoPair returns a tuple and no pair; let it return tokens of"),
        ("my_file:ThreeTokens", "returns tokens of the shape [2, 3, 128] for an image of [2, 65, "),
        ("my_file:NoTokens", "returns a NoneType as tokens; let it return tokens of"),
        ("my_file:NoAux", "returns a NoneType as aux; let it return tokens of"),
        (
            "film",
            "choose gated, additive, interpolate, attentive, contextual, contextual-mean, ",
        ),
        ("my_file.py:My Fusion", "or a path like my_file:MyFusion"),
    ],
)
def test_a_wrong_path_gets_one_sentence(path, words, home, tmp_path):
    data = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset"]
    flags = [*data, *QUICK, "--output-dir", tmp_path / "run", FILM[0], path]
    bad(blip_fine_tune_2, flags, words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere:MyData", "the data set nowhere:MyData needs the module nowhere"),
        ("my_file:not_data", "my_file:not_data is no data set; name an object of"),
        ("COCO", "choose CIRR, FashionIQ, CIRCO or a path like my_file:MyData"),
        ("my_file:BadReader", "the reader of Bad reader fails in line "),
        ("my_file:BadReader", "my_file.py (KeyError: 'id'); mend it."),
        ("my_file:RowReader", "the reader of Row reader gives a list; let it return a list of"),
    ],
)
def test_a_wrong_data_set_gets_one_sentence(path, words, tmp_path):
    flags = ["--dataset", path, "--data-path", "photos", *QUICK, "--output-dir", tmp_path / "run"]
    bad(blip_fine_tune_2, flags, words)
    assert not (tmp_path / "run").exists()


def test_a_data_set_without_a_usual_folder_needs_one(work):
    bad(blip_fine_tune_2, ["--dataset", "my_file:MyData", *QUICK], "name it with --data-path")


def test_a_split_whose_parts_do_not_fit_is_refused(work, tmp_path):
    shutil.copytree("photos", tmp_path / "photos")
    queries = tmp_path / "photos" / "queries.csv"
    queries.write_text(queries.read_text().replace("v3,val,03.png,05.png", "v3,val,03.png,x.png"))
    flags = ["--dataset", "my_file:MyData", "--data-path", tmp_path / "photos", *QUICK]
    bad(blip_fine_tune_2, flags, "query v3 of My data val names the image 'x.png'")


def test_names_are_found_whatever_their_case():
    assert parse(Config, ["--dataset", "cirr"], description="").data.dataset == "CIRR"


def test_what_is_installed_wins_over_the_current_folder(work):
    (work / "json.py").write_text("loads = None\n")
    assert find("json:loads", what="thing") is json.loads
    (work / "json.py").unlink()


def test_the_tutorials_class_is_the_one_that_was_used():
    assert "FilmFusion" in runpy.run_path(str(TUTORIAL))
