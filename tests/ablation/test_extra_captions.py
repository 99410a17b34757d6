"""Cells with further captions: their files are looked at, and their triplets counted, first."""

import json

import pytest
import yaml
from conftest import SHORT, bad
from test_ablation import grid_of

from gatedcir.ablation.runs import runs_of
from gatedcir.ablation.same_data import check_data
from gatedcir.commands import ablate
from gatedcir.errors import UserError


def test_a_file_that_only_a_later_cell_names_is_looked_at_before_the_first_run(home, tmp_path):
    cells = {"a": {}, "b": {"extra-captions": [str(tmp_path / "missing.json")]}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"baseline": "a", "cells": cells}))
    output = tmp_path / "out"
    flags = ["--grid", tmp_path / "grid.yaml", "--dataset", "CIRR", "--output", output, *SHORT]
    flags += ["--data-path", home / "cirr_dataset"]
    bad(ablate, flags, "cell b: --extra-captions", "missing.json is no file")
    assert not output.exists()


def test_further_triplets_count_in_the_cells_that_have_them(home, tmp_path):
    """8 triplets of the split and 4 further ones make a batch of 12, and none of 13."""
    captions = json.loads((home / "cirr_dataset/cirr/captions/cap.rc2.train.json").read_text())
    (tmp_path / "more.json").write_text(json.dumps(captions[:4]))
    more = {"extra-captions": [str(tmp_path / "more.json")]}
    data = ("--data-path", str(home / "cirr_dataset"))

    def check(**cells):
        runs = runs_of(grid_of(tmp_path, cells, *data, baseline="a", seeds=1), tmp_path / "out")
        check_data(runs, runs)

    check(a={}, b={**more, "batch-size": 12})
    for cells, count, size in (
        ({"a": {}, "b": {**more, "batch-size": 13}}, 12, 13),
        ({"a": more, "b": {"batch-size": 12}}, 8, 12),
    ):
        with pytest.raises(UserError, match=f"cell b: .* {count} triplets, .* batch of {size};"):
            check(**cells)
