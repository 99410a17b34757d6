"""Images in the places and with the endings that people have."""

import json
import os
from pathlib import Path

import pytest

from gatedcir.benchmarks.cirr import parse_cirr
from gatedcir.benchmarks.fashioniq import parse_fashioniq
from gatedcir.data.image_files import Listings, endings
from gatedcir.data.left_out import check_files
from gatedcir.errors import UserError

CIRR_NAMES = [f"train-{number}-0-img0" for number in range(3)]


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


@pytest.fixture
def cirr(tmp_path) -> Path:
    first, second, _ = CIRR_NAMES
    entry = {"pairid": 0, "reference": first, "target_hard": second, "caption": "x"}
    entry["img_set"] = {"id": 0, "members": CIRR_NAMES}
    images = {name: f"./train/34/{name}.png" for name in CIRR_NAMES}
    for file, content in (("captions/cap", [entry]), ("image_splits/split", images)):
        path = tmp_path / "cirr" / f"{file}.rc2.val.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def fashioniq(tmp_path) -> Path:
    entry = {"candidate": "A", "target": "B", "captions": ["x", "y"]}
    for file, content in (("captions/cap", [entry]), ("image_splits/split", ["A", "B"])):
        path = tmp_path / f"{file}.dress.val.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    return tmp_path


def files_of(split) -> list[Path]:
    [found] = check_files([split], skip_missing=False)
    return list(found.paths.values())


def test_endings_are_those_that_pillow_reads():
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".gif"} <= endings()
    assert not {".txt", ".json", ".pdf"} & endings()  # Pillow writes PDF and does not read it


@pytest.mark.parametrize(
    "place",
    [
        *("img_raw/train/34", "images/train/34", "train", "img_raw/train", "images", "img_raw", ""),
        *("train/a/34", "img_raw/all/of/it", "images/more"),
    ],
)
@pytest.mark.parametrize("ending", [".png", ".PNG", ".jpeg", ".Webp"])
def test_cirr_is_found(cirr, place, ending):
    wanted = [cirr / place / f"{name}{ending}" for name in CIRR_NAMES]
    touch(*wanted)
    (cirr / "train" / "34").mkdir(parents=True, exist_ok=True)  # empty, and hides nothing
    assert files_of(parse_cirr(cirr, "val")) == wanted


def test_the_file_that_the_split_names_wins(cirr):
    wanted = [cirr / "train" / "34" / f"{name}.png" for name in CIRR_NAMES]
    others = [cirr / "images" / f"{name}.jpg" for name in CIRR_NAMES]
    touch(*wanted, *others, *(file.with_suffix(".jpg") for file in wanted))
    assert files_of(parse_cirr(cirr, "val")) == wanted
    wanted[1].unlink()
    other = cirr / "img_raw" / "train" / "34" / f"{CIRR_NAMES[1]}.png"
    touch(other)
    assert files_of(parse_cirr(cirr, "val")) == [wanted[0], other, wanted[2]]


def test_two_candidates_are_named(cirr):
    one, two = (cirr / "images" / f"{CIRR_NAMES[2]}{ending}" for ending in (".JPG", ".webp"))
    touch(*(cirr / "train" / "34" / f"{name}.png" for name in CIRR_NAMES[:2]), one, two)
    with pytest.raises(UserError, match=r"has two files, .*keep one of them") as raised:
        parse_cirr(cirr, "val")
    assert str(one) in str(raised.value) and str(two) in str(raised.value)
    two.unlink()
    two.symlink_to(one)  # the same file
    assert files_of(parse_cirr(cirr, "val"))[2] in (one, two)


def test_a_missing_cirr_image_says_what_was_looked_for(cirr):
    touch(*(cirr / "img_raw" / "train" / "34" / f"{name}.png" for name in CIRR_NAMES[:2]))
    (cirr / "train").mkdir()
    with pytest.raises(UserError) as raised:
        files_of(parse_cirr(cirr, "val"))
    message = str(raised.value)
    assert f"1 of 3 images are missing in {cirr / 'img_raw' / 'train' / '34'}" in message
    for word in (str(cirr), str(cirr / "images"), "split.rc2.val.json", ".webp", "sub-folders"):
        assert word in message


@pytest.mark.parametrize("place", ["images", "images/dress", "images/shirt", "images/a/b"])
@pytest.mark.parametrize("ending", [".jpg", ".png", ".jpeg", ".JPG", ".webp"])
def test_fashioniq_is_found(fashioniq, place, ending):
    wanted = [fashioniq / place / f"{name}{ending}" for name in "AB"]
    touch(*wanted)
    assert files_of(parse_fashioniq(fashioniq, "dress", "val")) == wanted


def test_two_files_of_a_garment_are_named(fashioniq):
    images = fashioniq / "images"
    touch(images / "A.jpg", images / "A.png", images / "B.jpg")
    with pytest.raises(UserError, match=r"the image A has two files, .*A\.jpg and .*A\.png; "):
        parse_fashioniq(fashioniq, "dress", "val")


def test_the_folder_of_the_own_category_comes_first(fashioniq):
    images = fashioniq / "images"
    touch(*(images / c / f"{name}.jpg" for c in ("dress", "shirt") for name in "AB"))
    found = files_of(parse_fashioniq(fashioniq, "dress", "val"))
    assert found == [images / "dress" / "A.jpg", images / "dress" / "B.jpg"]


def test_links_that_lead_back_end(fashioniq):
    images = fashioniq / "images"
    touch(images / "dress" / "A.jpg")
    (images / "dress" / "up").symlink_to(images)
    (images / "self").symlink_to(images / "self")
    outside = fashioniq / "elsewhere"
    touch(outside / "B.jpg")
    (images / "linked").symlink_to(outside)
    found = files_of(parse_fashioniq(fashioniq, "dress", "val"))
    assert found == [images / "dress" / "A.jpg", images / "linked" / "B.jpg"]


def test_a_missing_garment_says_what_was_looked_for(fashioniq):
    touch(fashioniq / "images" / "A.jpg")
    with pytest.raises(UserError, match=r"\(B\); looked for NAME with any ending.*\.webp.* below"):
        files_of(parse_fashioniq(fashioniq, "dress", "val"))


def test_each_folder_is_listed_once(fashioniq, monkeypatch):
    touch(fashioniq / "images" / "A.jpg", fashioniq / "images" / "shirt" / "B.jpg")
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    listings = Listings()
    splits = [parse_fashioniq(fashioniq, "dress", "val", listings=listings) for _ in range(2)]
    check_files(splits, skip_missing=False, listings=listings)
    assert len(listed) == len(set(listed)) == 3  # images, images/dress (not there), images/shirt
