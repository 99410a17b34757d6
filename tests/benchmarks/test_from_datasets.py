"""Hugging Face datasets as triplets of one's own."""

import io
import json
import sys

import pytest
from conftest import bad
from PIL import Image

from gatedcir.benchmarks.load import read_queries
from gatedcir.commands import convert


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The library, without its cache in the home folder."""
    found = pytest.importorskip("datasets")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return found


def picture(colour):
    content = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def test_a_folder_and_a_file_become_triplets(datasets, tmp_path, capsys):
    red, blue = picture("red"), picture("blue")
    rows = {"reference": [red, blue], "text": ["in blue", "in red"], "target": [[blue], [red]]}
    image = datasets.Image()
    features = {"reference": image, "text": datasets.Value("string"), "target": [image]}
    features |= {"price": datasets.Value("int64")}
    made = datasets.Dataset.from_dict(rows | {"price": [1, 2]}, datasets.Features(features))
    datasets.DatasetDict({"train": made, "validation": made}).save_to_disk(tmp_path / "disk")
    made.to_parquet(tmp_path / "one.parquet")
    for place, splits in (("disk", ["train", "val"]), ("one.parquet", ["train"])):
        output = tmp_path / f"of_{place}"
        convert.main(["--from-datasets", str(tmp_path / place), "--output", str(output)])
        assert "2 queries, without the columns price" in capsys.readouterr().out
        assert len(list((output / "images").iterdir())) == 2  # each content once
        for split in splits:
            [part] = read_queries(str(output), output, split, images=True)
            assert [t.captions for t in part.triplets] == [("in blue",), ("in red",)]
            one, two = part.triplets
            assert (one.reference, one.targets) == (two.targets[0], (two.reference,))
            assert part.paths[one.reference].read_bytes() == red["bytes"]


def test_paths_stay_and_other_columns_are_refused(datasets, tmp_path):
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.png")
    rows = {"reference": ["a.png"], "text": [None], "target": ["a.png"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "t.parquet")
    words = ["--from-datasets", tmp_path / "t.parquet", "--output"]
    convert.main([*map(str, words), str(tmp_path / "out")])
    line = json.loads((tmp_path / "out" / "train.jsonl").read_text())
    assert line == {"reference": "../a.png", "text": None, "target": "../a.png"}
    datasets.Dataset.from_dict({"image": ["a"]}).to_parquet(tmp_path / "t.parquet")
    bad(convert, [*words, tmp_path / "new"], "has no column reference and text (train has image)")
    bad(convert, ["--from-datasets", tmp_path / "no", *words[2:], tmp_path / "new"], "cannot be re")
    assert not (tmp_path / "new").exists()


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    words = ["--from-datasets", "x", "--output", tmp_path / "new"]
    bad(convert, words, "datasets, which is not installed", "'gatedcir[datasets]'")
    bad(convert, words[2:], "give --dataset, or --from-datasets PLACE.")
    bad(convert, [*words, "--dataset", "CIRR"], "give --dataset, or --from-datasets PLACE.")
