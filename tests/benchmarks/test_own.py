"""Triplets of one's own: lines, splits, galleries, texts, and hand-counted metrics."""

import json
import random
from pathlib import Path

import pytest

from gatedcir.benchmarks.answers import Given, Listed
from gatedcir.benchmarks.base import Choice
from gatedcir.benchmarks.cirr import CIRR, parse_cirr
from gatedcir.benchmarks.fashioniq import FASHIONIQ, parse_fashioniq
from gatedcir.benchmarks.load import load_splits, read_queries
from gatedcir.benchmarks.own import evaluation_text, own, training_text
from gatedcir.benchmarks.own_writing import files_of
from gatedcir.benchmarks.registry import benchmark
from gatedcir.errors import UserError

FIRST = {"reference": "a.png", "text": "is red", "target": "b.png"}
RANKED = Choice(ranked=True)


def write(file, *rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read(place, split="val", choice=RANKED):
    found = benchmark(str(place))
    return read_queries(str(place), found.folder, split, choice=choice, images=True)


def refused(place, *words, split="val", choice=RANKED):
    with pytest.raises(UserError) as caught:
        read(place, split, choice)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_line_has_all_its_parts(tmp_path):
    row = {
        "id": 7,
        "reference": "./in/../a.png",
        "text": ["is red", "has dots"],
        "target": ["b.png", "in/c.png"],
        "candidates": ["b.png", "d.png", "a.png"],
        "negatives": "e.png",
    }
    [split] = read(write(tmp_path / "mine.jsonl", row))
    [triplet] = split.triplets
    assert (triplet.query_id, triplet.reference) == ("7", "a.png")
    assert triplet.captions == ("is red", "has dots")
    assert triplet.targets == ("b.png", "in/c.png") and triplet.group == tuple(row["candidates"])
    assert split.gallery == ("a.png", "b.png", "in/c.png", "d.png", "e.png")
    assert split.paths["in/c.png"] == tmp_path / "in" / "c.png"
    assert (split.name, split.reference_removed) == ("mine val", True)
    assert split.protocol == (
        "gallery of 5 images, reference removed, 1 queries, all lines of its file"
    )


def test_splits_of_one_file(tmp_path):
    file = write(
        tmp_path / "mine.jsonl",
        FIRST | {"split": "train"},
        FIRST | {"split": "val", "target": "c.png"},
    )
    assert [read(file, split)[0].triplets[0].target for split in ("train", "val")] == [
        "b.png",
        "c.png",
    ]
    assert read(file)[0].gallery == ("a.png", "c.png")
    assert read(file, choice=Choice(gallery="all"))[0].gallery == ("a.png", "c.png", "b.png")
    refused(file, 'no lines of the split test; write "split": "test" into some', split="test")
    write(file, FIRST | {"split": "train"}, FIRST)
    refused(file, "line 2", "has no split, and others have one")


def test_a_file_without_splits_is_for_training_or_is_ranked(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    file = str(write(tmp_path / "mine.jsonl", FIRST, FIRST | {"target": "c.png"}))
    [[split]] = load_splits(file, tmp_path, ["train"])
    assert len(split.triplets) == 2
    with pytest.raises(UserError, match="no lines of the split val"):
        load_splits(file, tmp_path, ["train", "val"])
    assert len(read(file, "test")[0].triplets) == 2


def test_a_folder_has_a_file_for_each_split(tmp_path):
    write(tmp_path / "set" / "val.jsonl", FIRST)
    (tmp_path / "set" / "train.csv").write_text(
        "reference,text,target\na.png,is red|has dots,b.png|c.png\n"
    )
    [train] = read(tmp_path / "set", "train")
    assert train.triplets[0].targets == ("b.png", "c.png") and len(train.triplets[0].captions) == 2
    assert train.name == "set train"
    assert read(tmp_path / "set" / "val.jsonl")[0].name == "set val"
    refused(tmp_path / "set", "no lines of the split test", "test.jsonl, test.csv", split="test")
    write(tmp_path / "set" / "val.csv")
    refused(tmp_path / "set", "has both val.jsonl and val.csv")
    (tmp_path / "set" / "val.csv").unlink()
    write(tmp_path / "set" / "val.jsonl", FIRST | {"split": "train"})
    refused(tmp_path / "set", "line 1 is of the split train, in the file of val")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": None}, None),  # said in so many words
        ({"text": " "}, "has an empty text"),
        ({"text": ["", " "]}, "has no text"),
        ({"text": ["red", 0.5]}, "has 0.5 as text, which must be a text"),
        ({"reference": ""}, "has an empty reference"),
        ({"target": "./a.png"}, "names its reference as target"),
        ({"negatives": ["a.png"]}, "names its reference as negatives"),
        ({"negatives": ["b.png"]}, "names b.png as target and as negatives"),
        ({"target": ["b.png", "./b.png"]}, "names an image twice as target"),
        ({"candidates": ["a.png", "c.png", "d.png"]}, "has candidates without its first target"),
        ({"candidates": ["a.png", "b.png"]}, "has candidates that leave no choice"),
        ({"split": "dev"}, "has the split dev (it may be train, val, test)"),
        ({"targets": "b.png"}, "has the unknown key targets (target is the nearest)"),
        ({"reference": "https://x.org/a.png"}, "names the address https://x.org/a.png"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, change, words):
    file = write(tmp_path / "mine.jsonl", FIRST, FIRST | change)
    if words is None:
        assert read(file)[0].triplets[1].captions == ("",)
    else:
        refused(file, f"1 wrong line: line 2 {words}")


def test_ids_are_not_repeated(tmp_path):
    file = write(tmp_path / "mine.jsonl", FIRST | {"id": "2"}, FIRST)  # the second is line 2
    refused(file, "line 2 has the id 2 of another line")


def test_training_needs_targets(tmp_path):
    file = write(tmp_path / "mine.jsonl", {"reference": "a.png", "text": "is red"})
    with pytest.raises(UserError, match="line 1 has no target, which training needs"):
        load_splits(str(file), tmp_path, ["train"])
    assert read(file)[0].triplets[0].targets == ()


def test_the_gallery_may_be_a_folder_or_a_list(tmp_path):
    file = write(tmp_path / "mine.jsonl", FIRST | {"reference": "in/a.png", "target": "in/b.png"})
    for name in ("in/a.png", "in/b.png", "in/deep/c.JPG", "in/text.txt", "x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    [split] = read(file, choice=Choice(gallery=str(tmp_path / "in")))
    assert split.gallery == ("in/a.png", "in/b.png", "in/deep/c.JPG")
    assert f"3 images ({tmp_path / 'in'})" in split.protocol
    (tmp_path / "in" / "list.txt").write_text("deep/c.JPG\n\n../x.png\n")
    [split] = read(file, choice=Choice(gallery=str(tmp_path / "in" / "list.txt")))
    assert split.gallery == ("in/deep/c.JPG", "x.png", "in/a.png", "in/b.png")
    (tmp_path / "mine.gallery.txt").write_text("x.png\nin/b.png\nin/a.png\n")
    assert read(file)[0].gallery == ("x.png", "in/b.png", "in/a.png")
    (tmp_path / "empty").mkdir()
    refused(file, "holds no images", choice=Choice(gallery=str(tmp_path / "empty")))
    refused(file, "there is no file", choice=Choice(gallery=str(tmp_path / "none.txt")))
    (tmp_path / "mine.gallery.txt").write_text("x.png\n")
    refused(file, "names the image 'in/b.png', which is not in the gallery")


def test_published_galleries_are_not_replaced(home):
    choice = Choice(gallery="photos")
    with pytest.raises(UserError, match="CIRR has its own galleries"):
        load_splits("CIRR", home / "cirr_dataset", ["val"], choice=choice)


def test_the_reference_stays_where_the_settings_say_so(tmp_path):
    write(tmp_path / "val.jsonl", FIRST, FIRST | {"target": "a.png"})
    refused(tmp_path, "line 2 names its reference as target")
    settings = tmp_path / "dataset.json"
    settings.write_text('{"reference": "kept"}')
    [split] = read(tmp_path)
    assert not split.reference_removed and "reference kept" in split.protocol
    settings.write_text('{"reference": "gone"}')
    refused(tmp_path, "dataset.json may only hold")


def listed(split, lists, groups=None):
    return Listed(split, Given(lists, groups or {}))


def test_metrics_equal_hand_counts(tmp_path):
    rows = [
        FIRST | {"id": "one", "target": ["b.png", "d.png"]},
        FIRST | {"id": "two", "candidates": ["c.png", "b.png", "d.png"], "negatives": "e.png"},
    ]
    [split] = read(write(tmp_path / "mine.jsonl", *rows))
    lists = {"one": ["d.png", "c.png", "b.png"], "two": ["b.png", "a.png"]}
    found = own("mine.jsonl").measure([listed(split, lists, {"two": ["c.png", "b.png", "d.png"]})])
    assert found["recall_at1"] == 50 and found["recall_at5"] == 100  # of the first target
    assert found["map_at5"] == pytest.approx(100 * ((1 + 2 / 3) / 2 + 1) / 2)
    assert found["group_recall_at1"] == 0 and found["group_recall_at2"] == 100
    write(tmp_path / "mine.jsonl", FIRST)
    [plain] = read(tmp_path / "mine.jsonl")
    found = own("mine.jsonl").measure([listed(plain, {"1": ["b.png"]})])
    assert found.keys() == {f"recall_at{k}" for k in (1, 5, 10, 50)}


def test_categories_are_ranked_apart(tmp_path):
    rows = [
        FIRST | {"category": "x"},
        FIRST | {"category": "x", "target": "c.png"},
        FIRST | {"category": "y", "target": "d.png"},
    ]
    parts = read(write(tmp_path / "mine.jsonl", *rows))
    assert [part.name for part in parts] == ["mine x val", "mine y val"]
    assert [part.gallery for part in parts] == [("a.png", "b.png", "c.png"), ("a.png", "d.png")]
    lists = [{"1": ["b.png"], "2": ["b.png"]}, {"3": ["d.png"]}]
    found = own("mine.jsonl").measure([*map(listed, parts, lists)])
    assert (found["x_recall_at1"], found["y_recall_at1"]) == (50, 100)
    assert found["recall_at1"] == 75
    write(tmp_path / "mine.jsonl", FIRST, FIRST | {"category": "x"})
    refused(tmp_path / "mine.jsonl", "line 1", "has no category, and others have one")


def test_texts():
    two = ("Is red.", " has dots")
    assert evaluation_text(("As It Is.",)) == "As It Is."
    assert evaluation_text(two) == "Is red and has dots"
    assert evaluation_text((*two, "is long, ")) == "Is red and has dots and is long"
    drawn = {training_text((*two, "is long"), random.Random(seed)) for seed in range(200)}
    assert {"Is red and has dots and is long", "is long", "Is long and has dots"} <= drawn
    assert len(drawn) == 3 + 6 + 6


@pytest.mark.parametrize(
    ("place", "name", "folder"),
    [
        ("photos/mine.jsonl", "mine", "photos"),
        ("photos/train.jsonl", "photos", "photos"),
        ("mine.csv", "mine", "."),
        ("some/photos", "photos", "some/photos"),
        ("some/cirr", "own cirr", "some/cirr"),  # no report may take it for the published one
    ],
)
def test_the_place_names_the_data_set(place, name, folder):
    found = benchmark(place)
    assert (found.name, found.folder) == (name, Path(folder))


def converted(tmp_path, parts, split, output):
    for name, text in files_of(parts, split, output).items():
        output.mkdir(exist_ok=True)
        (output / name).write_text(text)
    return read(output, split)


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("dataset", [CIRR, FASHIONIQ], ids=lambda one: one.name)
def test_converted_splits_are_the_same(home, tmp_path, dataset, split):
    root = home / dataset.folder
    if dataset is CIRR:
        parts = [parse_cirr(root, dataset.split_named(split))]
    else:
        parts = [parse_fashioniq(root, category, split) for category in ("shirt", "dress")]
    again = converted(tmp_path, parts, split, tmp_path / "set")
    for before, after in zip(parts, again, strict=True):
        place = {name: path.resolve() for name, path in before.paths.items()}
        new = {name: path.resolve() for name, path in after.paths.items()}
        assert [place[n] for n in before.gallery] == [new[n] for n in after.gallery]
        assert before.reference_removed == after.reference_removed
        for one, other in zip(before.triplets, after.triplets, strict=True):
            assert (one.query_id, one.captions) == (other.query_id, other.captions)
            assert place[one.reference] == new[other.reference]
            assert [place[n] for n in one.targets] == [new[n] for n in other.targets]
            assert [place[n] for n in one.group] == [new[n] for n in other.group]
