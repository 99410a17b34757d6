"""Images that are missing or left out."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from gatedcir.data.left_out import check_files, write_list
from gatedcir.data.triplets import Split, Triplet
from gatedcir.errors import UserError


def make_split(folder: Path) -> Split:
    names = ("a", "b", "c", "d")
    return Split(
        name="toy val",
        triplets=(
            Triplet("0", "a", ("b",), ("one",), group=("a", "b", "c")),
            Triplet("1", "b", ("c",), ("two",), group=("b", "c")),
            Triplet("2", "d", (), ("three",)),
        ),
        gallery=names,
        paths={name: folder / name[0] / f"{name}.png" for name in names},
        protocol="gallery of 4 images, reference kept",
        reference_removed=False,
    )


def write_images(split: Split, names: str) -> None:
    for name in names:
        split.paths[name].parent.mkdir(exist_ok=True)
        split.paths[name].touch()


@pytest.mark.parametrize("skip_missing", [False, True])
def test_a_complete_split_is_unchanged(tmp_path, skip_missing):
    split = make_split(tmp_path)
    write_images(split, "abcd")
    assert check_files([split], skip_missing=skip_missing) == [split]


def test_a_triplet_keeps_those_of_its_targets_that_are_there(tmp_path):
    split = make_split(tmp_path)
    several = Triplet("3", "a", ("b", "d", "c"), ("four",))
    split = replace(split, triplets=(*split.triplets, several))
    write_images(split, "acd")
    [found] = check_files([split], skip_missing=True)
    assert [(t.query_id, t.targets) for t in found.triplets] == [("2", ()), ("3", ("d", "c"))]
    for name in "cd":
        split.paths[name].unlink()
    with pytest.raises(UserError, match="no triplets left"):
        check_files([replace(split, triplets=(several,))], skip_missing=True)


def test_missing_files_are_named(tmp_path):
    split = make_split(tmp_path)
    write_images(split, "ad")
    with pytest.raises(UserError) as raised:
        check_files([split], skip_missing=False)
    message = str(raised.value)
    assert "toy val: 2 of 4 images" in message
    assert f"in {tmp_path} (b, c)" in message
    assert "--skip-unreadable" in message


def test_missing_files_of_all_parts_are_told_at_once(tmp_path):
    one = make_split(tmp_path)
    two = replace(one, name="other", paths={"e": tmp_path / "e.png"})
    with pytest.raises(UserError, match=r"toy val \+ other: 5 of 5 images"):
        check_files([one, two], skip_missing=False)
    write_images(one, "abcd")
    with pytest.raises(UserError, match=r"^other: 1 of 1 images"):
        check_files([one, two], skip_missing=False)


def test_only_ten_names_are_shown(tmp_path):
    names = tuple(f"n{number:02}" for number in range(12))
    split = replace(make_split(tmp_path), paths={name: tmp_path / "x" / name for name in names})
    with pytest.raises(UserError, match=r"12 of 12 .*x \(n00, .*n09, \.\.\.; ") as raised:
        check_files([split], skip_missing=False, list_folder=tmp_path / "lists")
    assert "n10" not in str(raised.value)
    file = tmp_path / "lists" / "unreadable_images.csv"
    assert f"{file} lists all" in str(raised.value)
    with file.open(newline="") as opened:
        rows = list(csv.reader(opened))
    assert rows == [
        ["file", "reason"],
        *([str(path), "missing"] for path in split.paths.values()),
    ]


def test_a_list_without_a_folder_is_temporary(tmp_path):
    odd = tmp_path / 'a, "b"\udcff.png'
    files = [write_list({odd: "empty"}), write_list({odd: "empty"})]
    assert files[0] != files[1]
    for file in files:
        assert file.read_text() == f'file,reason\n"{tmp_path}/a, ""b""\\udcff.png",empty\n'
        file.unlink()


def test_unreadable_images_are_left_out_by_reason(tmp_path):
    split = make_split(tmp_path)
    write_images(split, "abcd")
    paths = split.paths
    [kept] = check_files(
        [split],
        skip_missing=False,
        find_unreadable=lambda files: {paths["c"]: "empty", paths["d"]: "missing"},
        skip_unreadable=True,
    )
    assert kept.gallery == ("a", "b") and kept.skipped == 2
    assert kept.protocol.endswith(
        ", 2 unreadable images (1 empty, 1 missing) and 2 triplets left out"
    )


def test_missing_and_broken_images_are_told_together(tmp_path):
    split = make_split(tmp_path)
    write_images(split, "abd")
    paths = split.paths
    asked = []

    def find_unreadable(files):
        asked.extend(files)
        return {paths["b"]: "empty", paths["d"]: "web page"}

    with pytest.raises(UserError) as raised:
        check_files([split], skip_missing=False, find_unreadable=find_unreadable)
    assert asked == [paths["a"], paths["b"], paths["d"]]
    also = f"(c), and 2 cannot be read: {paths['b']} (empty), {paths['d']} (web page); add them"
    assert also in str(raised.value)


def test_what_was_looked_for_is_said(tmp_path):
    split = replace(make_split(tmp_path), searched="looked everywhere")
    with pytest.raises(UserError, match="; looked everywhere; add them"):
        check_files([split], skip_missing=False)


def test_skip_missing_drops_and_counts(tmp_path):
    split = make_split(tmp_path)
    write_images(split, "abd")
    [kept] = check_files([split], skip_missing=True)
    assert kept.gallery == ("a", "b", "d")
    assert set(kept.paths) == {"a", "b", "d"}
    # Triplet 1 loses its target; triplet 2 has none to lose.
    assert [triplet.query_id for triplet in kept.triplets] == ["0", "2"]
    assert kept.triplets[0].group == ("a", "b")
    assert kept.skipped == 1
    assert kept.protocol == (
        "gallery of 4 images, reference kept, 1 missing images and 1 triplets left out"
    )


def test_nothing_left_is_an_error(tmp_path):
    split = make_split(tmp_path)
    write_images(split, "a")
    with pytest.raises(UserError, match="toy val has no triplets left without its 3 missing"):
        check_files([split], skip_missing=True)
    write_images(split, "bcd")
    with pytest.raises(UserError, match="toy val has no triplets:"):
        check_files([replace(split, triplets=())], skip_missing=False)
