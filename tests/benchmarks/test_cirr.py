import json
from pathlib import Path

import pytest

from gatedcir.benchmarks.cirr import parse_cirr
from gatedcir.data.left_out import check_files
from gatedcir.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "annotations"
NAMES = [f"dev-{number}-0-img0" for number in (5, 3, 9)]


def entry(**changes) -> dict:
    return {
        "pairid": 7,
        "reference": NAMES[0],
        "target_hard": NAMES[1],
        "target_soft": {NAMES[2]: 1.0},
        "caption": "show two dogs",
        "img_set": {"id": 1, "members": [NAMES[2], NAMES[0], NAMES[1]]},
    } | changes


def write_annotations(root: Path, split: str, entries: list, names: list[str] = NAMES) -> None:
    for folder, content in (
        ("captions/cap", entries),
        ("image_splits/split", {name: f"./dev/{name}.png" for name in names}),
    ):
        path = root / "cirr" / f"{folder}.rc2.{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def test_parse_reads_the_published_layout(tmp_path):
    write_annotations(tmp_path, "val", [entry()])
    split = parse_cirr(tmp_path, "val")
    (triplet,) = split.triplets
    assert triplet.query_id == "7"
    assert (triplet.reference, triplet.target) == (NAMES[0], NAMES[1])
    assert triplet.captions == ("show two dogs",)
    assert triplet.group == (NAMES[2], NAMES[0], NAMES[1])
    assert split.gallery == tuple(NAMES)
    assert split.paths[NAMES[2]] == tmp_path / "dev" / f"{NAMES[2]}.png"
    assert split.name == "CIRR val"
    assert split.protocol == "gallery of 3 images, reference removed, 1 queries"
    assert split.reference_removed


def test_test1_has_no_targets(tmp_path):
    write_annotations(tmp_path, "test1", [entry()])
    assert parse_cirr(tmp_path, "test1").triplets[0].target is None


@pytest.mark.parametrize("folder", ["", "img_raw", "images"])
def test_images_are_found_in_three_places(tmp_path, folder):
    write_annotations(tmp_path, "val", [entry()])
    images = tmp_path / folder / "dev"
    images.mkdir(parents=True)
    for name in NAMES:
        (images / f"{name}.png").touch()
    [split] = check_files([parse_cirr(tmp_path, "val")], skip_missing=False)
    assert split.paths[NAMES[0]] == images / f"{NAMES[0]}.png"


def test_missing_images_are_refused_or_skipped(tmp_path):
    write_annotations(tmp_path, "val", [entry()])
    (tmp_path / "dev").mkdir()
    for name in NAMES[:2]:
        (tmp_path / "dev" / f"{name}.png").touch()
    with pytest.raises(UserError, match="1 of 3 images"):
        check_files([parse_cirr(tmp_path, "val")], skip_missing=False)
    [split] = check_files([parse_cirr(tmp_path, "val")], skip_missing=True)
    assert split.gallery == tuple(NAMES[:2])
    assert split.triplets[0].group == tuple(NAMES[:2])
    assert "1 missing images" in split.protocol


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(), {"pairid": 1}], r"entry 1 of .*cap\.rc2\.val\.json lacks the key 'img_set'"),
        ([entry(img_set={"id": 1})], "img_set of entry 0 .*lacks the key 'members'"),
        ([entry(img_set={"members": NAMES})], "img_set of entry 0 .*lacks the key 'id'"),
        ([{k: v for k, v in entry().items() if k != "target_hard"}], "lacks the key 'target_hard'"),
        ([entry(reference="dev-x")], r"'dev-x', which is not in split\.rc2\.val\.json"),
        ([entry(target_hard="dev-y")], "'dev-y', which is not in"),
        ([entry(img_set={"id": 1, "members": [["z"]]})], "which is not in"),
        ([entry(caption=None)], "'caption' of the entry 0 .*must hold a str"),
        ([entry(), entry()], "repeats a pairid"),
    ],
)
def test_broken_entries_are_named(tmp_path, entries, message):
    write_annotations(tmp_path, "val", entries)
    with pytest.raises(UserError, match=message):
        parse_cirr(tmp_path, "val")


def test_missing_annotations_and_unknown_split(tmp_path):
    with pytest.raises(UserError, match=r"cap\.rc2\.train\.json does not exist; .*ROOT/cirr"):
        parse_cirr(tmp_path, "train")
    with pytest.raises(UserError, match="no split 'dev'; choose one of train, val, test1"):
        parse_cirr(tmp_path, "dev")


@pytest.mark.skipif(not (REAL / "cirr").is_dir(), reason="the real annotations are not here")
@pytest.mark.parametrize(
    ("name", "queries", "images"), [("val", 4181, 2297), ("test1", 4148, 2315)]
)
def test_real_annotations(name, queries, images):
    split = parse_cirr(REAL, name)
    assert (len(split.triplets), len(split.gallery), len(split.paths)) == (queries, images, images)
    assert all(len(t.group) == 6 and t.reference in t.group for t in split.triplets)
    assert all((t.target is None) == (name == "test1") for t in split.triplets)
    assert all(t.target in t.group for t in split.triplets if t.target is not None)


def test_a_member_that_is_named_twice_counts_once(tmp_path):
    twice = {"id": 1, "members": [NAMES[1], NAMES[0], NAMES[1], NAMES[2], NAMES[0]]}
    entries = [entry(pairid=1, img_set=twice), entry(pairid=2, img_set=twice), entry(pairid=3)]
    entries[2]["img_set"] = {"id": 2, "members": NAMES}
    write_annotations(tmp_path, "val", entries)
    split = parse_cirr(tmp_path, "val")
    assert split.triplets[0].group == (NAMES[1], NAMES[0], NAMES[2])
    assert split.protocol.endswith(
        "removed, 3 queries, 1 image sets name a member twice, counted once"
    )


def test_the_target_must_stand_in_its_image_set(tmp_path):
    write_annotations(tmp_path, "val", [entry(img_set={"id": 1, "members": NAMES[::2]})])
    with pytest.raises(UserError, match=r"stands in img_set\.members; correct the file, or"):
        parse_cirr(tmp_path, "val")


def test_the_gallery_of_all_splits_follows_that_of_the_split(tmp_path):
    write_annotations(tmp_path, "val", [entry()])
    write_annotations(tmp_path, "train", [], [NAMES[1], "t0", "t1"])
    write_annotations(tmp_path, "test1", [], ["x0", "t1"])
    split = parse_cirr(tmp_path, "val", gallery="all")
    assert split.gallery == (*NAMES, "t0", "t1", "x0") == tuple(split.paths)
    assert split.protocol == "gallery of 6 images (all splits), reference removed, 1 queries"
    (tmp_path / "cirr/image_splits/split.rc2.test1.json").unlink()
    with pytest.raises(UserError, match=r"split\.rc2\.test1\.json does not exist"):
        parse_cirr(tmp_path, "val", gallery="all")
