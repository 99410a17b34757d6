"""A fingerprint changes with all that a run sees of its triplets, and with nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from gatedcir.data.fingerprint import changed_split, fingerprints
from gatedcir.data.triplets import Split, Triplet

TRIPLETS = (Triplet("1", "a", "b", ("is red",), ("a", "b"), "7"), Triplet("2", "b", "a", ("big",)))
PATHS = {"a": Path("a.png"), "b": Path("b.png")}
SPLIT = Split("CIRR val", TRIPLETS, ("a", "b"), PATHS, "a protocol", reference_removed=True)


def of(split):
    return fingerprints([split])["CIRR val"]


def test_it_is_the_same_for_a_data_set_that_was_moved():
    moved = {name: Path("elsewhere") / path for name, path in PATHS.items()}
    assert of(replace(SPLIT, paths=moved, protocol="other words")) == of(SPLIT)


def test_it_does_not_change_from_one_version_to_the_next():
    assert of(SPLIT) == "65d85829a87706e4"


@pytest.mark.parametrize(
    "part",
    [
        {"query_id": "3"},
        {"reference": "b"},
        {"captions": ("is blue",)},
        {"captions": ("is", "red")},
        {"group": ("b", "a")},
        {"pool": "8"},
    ],
    ids=str,
)
def test_every_part_of_a_triplet_counts(part):
    assert of(replace(SPLIT, triplets=(replace(TRIPLETS[0], **part), TRIPLETS[1]))) != of(SPLIT)


def test_order_and_gallery_count():
    assert of(replace(SPLIT, triplets=TRIPLETS[::-1])) != of(SPLIT)
    assert of(replace(SPLIT, triplets=TRIPLETS[:1])) != of(SPLIT)
    assert of(replace(SPLIT, gallery=("b", "a"))) != of(SPLIT)


def test_only_what_both_know_is_compared():
    assert changed_split({}, {"val": "a"}) is None
    assert changed_split({"val": "a"}, {"train": "b"}) is None
    assert changed_split({"train": "a", "val": "b"}, {"train": "a", "val": "c"}) == "val"
