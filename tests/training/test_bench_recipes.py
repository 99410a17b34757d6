"""The script that puts the costs of the recipes next to ordinary training, with runs made up."""

import bench_recipes
import pandas as pd
import pytest
import recipe_costs

from gatedcir.errors import UserError
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse
from gatedcir.options.recipe_config import RecipeConfig


def test_the_first_epoch_does_not_count_and_the_median_does(capsys, monkeypatch, tmp_path):
    """Ordinary: 100 a second. The bank stage 400, the other recipes 50, and rates before these."""
    asked = []

    def run(folder, *words):
        asked.append(words)
        if words[0] == "evaluate":
            return "metrics\n  12.0 ms a query\n"
        name = words[words.index("--output") + 1]
        rate = {"first": 100.0, "bank-second": 400.0}.get(name, 50.0)
        rows = {
            "triplets_per_second": [1.0, rate, rate, 9000.0],
            "peak_memory_gib": [1.0, 2.0, 2.5, 2.5],
        }
        (folder / name).mkdir()
        pd.DataFrame(rows).to_csv(folder / name / "train_metrics.csv")
        return ""

    monkeypatch.setattr(recipe_costs, "_run", run)
    bench_recipes.main(["--triplets", "8", "--queries", "1"])
    printed = capsys.readouterr().out
    rows = [line.split("|")[1:-1] for line in printed.splitlines() if "|" in line]
    found = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert found["ordinary"] == ["100", "1.00", "2.50"]
    assert found["bank-second"] == ["400", "0.25", "2.50"]
    assert found["rerank"] == ["50", "2.00", "2.50"]
    assert set(recipe_costs.RECIPES) < set(found)
    assert "12.0 ms a query" in printed
    assert all("--config" not in words for words in asked if "--from" in words)


def test_the_words_of_every_recipe_are_options_of_training():
    for words in recipe_costs.RECIPES.values():
        made = parse(Config, ["--dataset", "CIRR", *words], description="a recipe")
        assert made.recipe != RecipeConfig()


def test_a_command_that_fails_is_named(tmp_path):
    with pytest.raises(UserError, match=r"`gatedcir evaluate` failed: .*nothing_here"):
        recipe_costs._run(tmp_path, "evaluate", "--model-path", "nothing_here")
