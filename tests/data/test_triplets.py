import random
from collections import Counter
from pathlib import Path

import pytest

from gatedcir.data.triplets import Split, Triplet, evaluation_text, only_used, training_text


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


def test_training_keeps_only_what_its_triplets_use():
    triplet = Triplet("0", "a", ("b", "c"), ("one",), group=("a", "b", "d"))
    paths = {name: Path(name) for name in "abcd"}
    used = only_used(Split("toy", (triplet,), tuple("abcd"), paths, "", reference_removed=False))
    assert set(used.gallery) == used.paths.keys() == {"a", "b", "c"}
    assert used.protocol == "1 triplets of 3 images"
    assert used.triplets[0].group == ()
