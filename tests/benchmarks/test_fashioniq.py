import json
from pathlib import Path

import pytest

from gatedcir.benchmarks.fashioniq import CATEGORIES, parse_fashioniq
from gatedcir.data.left_out import check_files
from gatedcir.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "annotations" / "fashioniq"
IMAGES = {"train": (11452, 19036, 16121), "val": (3817, 6346, 5373), "test": (3818, 6346, 5374)}
QUERIES = {"train": (5985, 5988, 6027), "val": (2017, 2038, 1961), "test": (2024, 2038, 2056)}
BLANKS = {"train": (0, 0, 12), "val": (0, 1, 2), "test": (0, 1, 0)}
VAL_SPLIT = (2628, 3089, 2902)

real = pytest.mark.skipif(not REAL.is_dir(), reason="the real annotations are not here")


def entry(candidate: str, target: str | None, captions: object = ("is red", "")) -> dict:
    content = {"candidate": candidate, "captions": captions}
    return content if target is None else content | {"target": target}


def write_annotations(root: Path, split: str, entries: list, names: list) -> None:
    for folder, content in (("captions/cap", entries), ("image_splits/split", names)):
        path = root / f"{folder}.dress.{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def write_images(root: Path, *names: str) -> None:
    (root / "images").mkdir()
    for name in names:
        (root / "images" / name).touch()


@pytest.fixture
def val(tmp_path) -> Path:
    write_annotations(
        tmp_path, "val", [entry("D", "B"), entry("B", "A", ["x", "y"])], ["A", "B", "C", "D"]
    )
    return tmp_path


def test_original_gallery_is_the_split_file(val):
    split = parse_fashioniq(val, "dress", "val")
    assert split.gallery == ("A", "B", "C", "D")
    assert [(t.query_id, t.reference, t.target) for t in split.triplets] == [
        ("dress-0", "D", "B"),
        ("dress-1", "B", "A"),
    ]
    assert split.triplets[0].captions == ("is red", "")
    assert split.name == "FashionIQ dress val"
    assert split.protocol == "gallery of 4 images (original split), reference kept, 2 queries"
    assert not split.reference_removed


def test_val_split_gallery_keeps_the_order_of_the_file(val):
    split = parse_fashioniq(val, "dress", "val", protocol="val-split")
    assert split.gallery == ("A", "B", "D")
    assert set(split.paths) == {"A", "B", "D"}
    assert split.protocol == "gallery of 3 images (VAL split), reference kept, 2 queries"


def test_extensions_are_resolved(val):
    write_images(val, "A.png", "B.jpg", "B.txt", "C.jpg", "D.png", "notes.txt")
    [split] = check_files([parse_fashioniq(val, "dress", "val")], skip_missing=False)
    paths = split.paths
    assert {n: p.name for n, p in paths.items()} == {
        "A": "A.png", "B": "B.jpg", "C": "C.jpg", "D": "D.png"
    }  # fmt: skip
    assert paths["A"].parent == val / "images"


def test_missing_images_are_refused_or_skipped(val):
    write_images(val, "A.png", "B.jpg", "C.txt")
    with pytest.raises(UserError, match=r"2 of 4 images are missing in .*images \(C, D\)"):
        check_files([parse_fashioniq(val, "dress", "val")], skip_missing=False)
    [split] = check_files([parse_fashioniq(val, "dress", "val")], skip_missing=True)
    assert split.gallery == ("A", "B")
    assert [triplet.query_id for triplet in split.triplets] == ["dress-1"]
    assert "2 missing images and 1 triplets" in split.protocol


def test_test_split_has_no_targets(tmp_path):
    write_annotations(tmp_path, "test", [entry("A", None)], ["A"])
    assert parse_fashioniq(tmp_path, "dress", "test").triplets[0].target is None


def test_images_outside_of_the_split_file(tmp_path):
    write_annotations(tmp_path, "train", [entry("R", "T")], ["A"])
    train = parse_fashioniq(tmp_path, "dress", "train")
    assert train.gallery == ("A",)
    assert set(train.paths) == {"A", "R", "T"}
    write_annotations(tmp_path, "val", [entry("R", "A")], ["A"])
    assert set(parse_fashioniq(tmp_path, "dress", "val").paths) == {"A", "R"}
    write_annotations(tmp_path, "val", [entry("A", "T")], ["A"])
    for protocol in ("original", "val-split"):
        with pytest.raises(UserError, match=r"'T' of dress-0 is not in .*split\.dress\.val"):
            parse_fashioniq(tmp_path, "dress", "val", protocol=protocol)


@pytest.mark.parametrize(
    ("entries", "names", "message"),
    [
        (
            [{"captions": ["x", "y"], "target": "A"}],
            ["A"],
            "entry 0 of .* lacks the key 'candidate'",
        ),
        ([entry("A", None)], ["A"], "lacks the key 'target'"),
        ([entry("A", "A", ["x"])], ["A"], "must have two captions"),
        ([entry("A", "A", ["x", None])], ["A"], "must have two captions"),
        ([entry("A", "A")], ["A", "A"], "each of them once"),
        ([entry("A", "A")], ["A", ["B"]], "must list image names"),
    ],
)
def test_broken_annotations_are_named(tmp_path, entries, names, message):
    write_annotations(tmp_path, "val", entries, names)
    with pytest.raises(UserError, match=message):
        parse_fashioniq(tmp_path, "dress", "val")


@pytest.mark.parametrize(
    ("category", "split", "protocol", "message"),
    [
        ("hat", "val", "original", "no category 'hat'; choose one of dress, shirt, toptee"),
        ("dress", "test1", "original", "no split 'test1'"),
        ("dress", "val", "val", "no protocol 'val'; choose one of original, val-split"),
        (
            "shirt",
            "val",
            "original",
            r"cap\.shirt\.val\.json does not exist, .*-categories dress\.",
        ),
    ],
)
def test_unknown_names(val, category, split, protocol, message):
    with pytest.raises(UserError, match=message):
        parse_fashioniq(val, category, split, protocol=protocol)


@real
@pytest.mark.parametrize("name", ["train", "val", "test"])
@pytest.mark.parametrize("number", range(3))
def test_real_annotations(number, name):
    split = parse_fashioniq(REAL, CATEGORIES[number], name)
    assert len(split.triplets) == QUERIES[name][number]
    assert len(split.gallery) == len(split.paths) == IMAGES[name][number]
    blank = sum(not caption for triplet in split.triplets for caption in triplet.captions)
    assert blank == BLANKS[name][number]


@real
@pytest.mark.parametrize("number", range(3))
def test_real_val_split(number):
    split = parse_fashioniq(REAL, CATEGORIES[number], "val", protocol="val-split")
    assert len(split.gallery) == len(split.paths) == VAL_SPLIT[number]


def test_the_gallery_of_all_splits_follows_that_of_the_split(val):
    write_annotations(val, "train", [], ["T", "B"])
    write_annotations(val, "test", [], ["X", "T"])
    split = parse_fashioniq(val, "dress", "val", gallery="all")
    assert split.gallery == ("A", "B", "C", "D", "T", "X")
    assert split.protocol == "gallery of 6 images (all splits), reference kept, 2 queries"
    with pytest.raises(UserError, match="leave one of them out"):
        parse_fashioniq(val, "dress", "val", gallery="all", protocol="val-split")
