"""The file of what truly changes: read as it was written, and refused where it is damaged."""

import json

import pytest

from gatedcir.data.changes import Change, Changes, Swap, file_of, read_changes, write_changes
from gatedcir.errors import UserError

CHANGES = Changes(
    size=(96, 128),
    objects={"a": ((0.0, 0.0, 0.5, 0.25), (0.5, 0.5, 1.0, 1.0))},
    queries={"7": (Change("move", ((0.0, 0.0, 0.5, 0.25), (0.25, 0.5, 0.75, 1.0))),)},
    swaps=(
        Swap(
            "a",
            (("remove it",), ("one", "two")),
            (((0.0, 0.0, 0.5, 0.25),), ((0.5, 0.5, 1.0, 1.0),)),
        ),
    ),
)


def test_is_read_as_it_was_written(tmp_path):
    assert read_changes(tmp_path, "CIRR val") is None
    write_changes(tmp_path, "CIRR val", CHANGES)
    assert read_changes(tmp_path, "CIRR val") == CHANGES
    assert read_changes(tmp_path, "CIRR train") is None


@pytest.mark.parametrize(
    "box", [[0.5, 0, 0.5, 1], [0, 0, 1.5, 1], [0, 1, 1, 0.5], [0, 0, 1], [0, 0, 1, "1"], 3]
)
def test_a_damaged_box_is_named(tmp_path, box):
    write_changes(tmp_path, "CIRR val", CHANGES)
    file = file_of(tmp_path, "CIRR val")
    content = json.loads(file.read_text())
    content["queries"]["7"][0]["boxes"][1] = box
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"query 7 of .*CIRR-val.json must hold boxes"):
        read_changes(tmp_path, "CIRR val")


@pytest.mark.parametrize("key", ["size", "objects", "queries", "swaps"])
def test_a_missing_part_is_named(tmp_path, key):
    write_changes(tmp_path, "CIRR val", CHANGES)
    file = file_of(tmp_path, "CIRR val")
    content = json.loads(file.read_text())
    del content[key]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"lacks the key '{key}'"):
        read_changes(tmp_path, "CIRR val")
