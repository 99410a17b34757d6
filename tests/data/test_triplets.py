import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from gatedcir.data.triplets import (
    Split,
    Triplet,
    check_files,
    evaluation_text,
    field,
    only_used,
    read_json,
    training_text,
)
from gatedcir.errors import UserError


def make_split(folder: Path) -> Split:
    names = ("a", "b", "c", "d")
    return Split(
        name="toy val",
        triplets=(
            Triplet("0", "a", "b", ("one",), group=("a", "b", "c")),
            Triplet("1", "b", "c", ("two",), group=("b", "c")),
            Triplet("2", "d", None, ("three",)),
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


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (("  Is RED. ",), "  Is RED. "),
        (("",), ""),
        (("is RED?.", " Has, a V-neck ."), "Is red and Has, a V-neck"),
        (("is red", ". ,?"), "Is red"),
        (("", " leafy and TALL"), "Leafy and tall"),
        (("\n", "is red"), "Is red"),
        (("", " ."), ""),
    ],
)
def test_evaluation_text(captions, expected):
    assert evaluation_text(captions) == expected


def test_training_text_draws_four_texts_alike():
    rng = random.Random(0)
    counts = Counter(training_text(("is Red.", "has Dots"), rng) for _ in range(4000))
    assert set(counts) == {"Is red and has Dots", "Has dots and is Red", "Is red", "Has dots"}
    # Each count is binomial(4000, 1/4), standard deviation 27: five of them on either side.
    assert all(abs(count - 1000) < 140 for count in counts.values())


def test_training_text_follows_the_generator():
    texts = [
        [training_text(("x", "y"), rng) for _ in range(20)]
        for rng in (random.Random(3), random.Random(3), random.Random(4))
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("captions", "expected"),
    [(("As It Is.",), "As It Is."), (("is Red.", ""), "Is red"), (("", "y"), "Y"), (("", "."), "")],
)
def test_training_text_without_a_choice(captions, expected):
    assert {training_text(captions, random.Random(seed)) for seed in range(20)} == {expected}


def test_three_captions_are_a_programming_error():
    with pytest.raises(ValueError, match="got 3"):
        evaluation_text(("a", "b", "c"))
    with pytest.raises(ValueError, match="got 0"):
        training_text((), random.Random(0))


@pytest.mark.parametrize("skip_missing", [False, True])
def test_a_complete_split_is_unchanged(tmp_path, skip_missing):
    split = make_split(tmp_path)
    write_images(split, "abcd")
    assert check_files([split], skip_missing=skip_missing) == [split]


def test_missing_files_are_named(tmp_path):
    split = make_split(tmp_path)
    write_images(split, "ad")
    with pytest.raises(UserError) as raised:
        check_files([split], skip_missing=False)
    message = str(raised.value)
    assert "toy val: 2 of 4 images" in message
    assert f"in {tmp_path} (b, c)" in message
    assert "--skip-missing" in message


def test_missing_files_of_all_parts_are_told_at_once(tmp_path):
    one = make_split(tmp_path)
    two = replace(one, name="other", paths={"e": tmp_path / "e.png"})
    with pytest.raises(UserError, match=r"toy val \+ other: 5 of 5 images"):
        check_files([one, two], skip_missing=False)
    write_images(one, "abcd")
    with pytest.raises(UserError, match=r"^other: 1 of 1 images"):
        check_files([one, two], skip_missing=False)


def test_training_keeps_only_what_its_triplets_use(tmp_path):
    split = make_split(tmp_path)
    used = only_used(replace(split, triplets=split.triplets[:1]))
    names = {split.triplets[0].reference, split.triplets[0].target}
    assert set(used.gallery) == used.paths.keys() == names
    assert used.protocol == "1 triplets of 2 images"
    assert used.triplets[0].group == ()


def test_only_ten_names_are_shown(tmp_path):
    names = tuple(f"n{number:02}" for number in range(12))
    split = replace(make_split(tmp_path), paths={name: tmp_path / "x" / name for name in names})
    with pytest.raises(UserError, match=r"12 of 12 .*x \(n00, .*n09, \.\.\.\)") as raised:
        check_files([split], skip_missing=False)
    assert "n10" not in str(raised.value)


def test_skip_missing_drops_and_counts(tmp_path):
    split = make_split(tmp_path)
    write_images(split, "abd")
    [kept] = check_files([split], skip_missing=True)
    assert kept.gallery == ("a", "b", "d")
    assert set(kept.paths) == {"a", "b", "d"}
    # Triplet 1 loses its target; triplet 2 has none to lose.
    assert [triplet.query_id for triplet in kept.triplets] == ["0", "2"]
    assert kept.triplets[0].group == ("a", "b")
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; the expected layout is HERE"),
        (b"[1,", "cannot be read as JSON"),
        (b"\xff\xfe[", "cannot be read as JSON"),
        (b"{}", "must hold a list"),
    ],
)
def test_read_json_names_the_file(tmp_path, content, message):
    path = tmp_path / "cap.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        read_json(path, list, layout="HERE")
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("entry", "message"), [({}, "lacks"), ("text", "lacks"), ({"k": None}, "must hold a str")]
)
def test_field_names_key_and_place(entry, message):
    with pytest.raises(UserError, match=r"'k'.*entry 3|entry 3.*'k'") as raised:
        field(entry, "k", str, where="entry 3")
    assert message in str(raised.value)
