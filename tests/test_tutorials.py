"""Every tutorial runs from its first cell to its last, and the site can show it."""

import runpy
from pathlib import Path

import pytest
from torch import nn

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
FILES = sorted(TUTORIALS.glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_runs(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = runpy.run_path(str(file))
    assert capsys.readouterr().out
    assert not list(tmp_path.iterdir())  # nothing is left behind
    if file.stem == "reproduce_sprc":
        assert found["history"][-1] < found["history"][0]
        assert found["before"].keys() == found["after"].keys()
    elif file.stem == "search_photos":
        assert found["hits"][0].path.stem == "blue-star"
        assert found["again"].encoded == 0
    elif file.stem == "own_triplets":
        assert found["end"]["metrics"]["recall_at1"] > found["start"]["metrics"]["recall_at1"]
    else:
        assert issubclass(found["FilmFusion"], nn.Module)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_cells_that_begin_with_a_title(file):
    _, first, *others = file.read_text(encoding="utf-8").split("# %%")
    assert first.startswith(" [markdown]\n# # ")
    assert any(cell.startswith("\n") for cell in others)


def test_there_are_tutorials_and_the_index_names_each():
    index = (TUTORIALS.parent / "index.md").read_text(encoding="utf-8")
    assert len(FILES) >= 2
    assert all(f"\ntutorials/{file.stem}\n" in index for file in FILES)
