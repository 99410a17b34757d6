"""Synthetic fashion: visible attributes, true captions, queries that need both inputs."""

import math
import random
import re
from collections import Counter
from itertools import combinations, product

import pytest
from PIL import Image, ImageChops, ImageOps

from gatedcir.synthetic.garment_picture import PALETTE
from gatedcir.synthetic.garment_text import LEVELS, PHRASES, _requests
from gatedcir.synthetic.garments import (
    ATTRIBUTES,
    SPLITS,
    Change,
    Family,
    Garment,
    answers,
    captions,
    describe,
    draw,
    family,
    sample,
    satisfies,
    split_of,
    words,
)

DRESS = Garment("dress", ("red", "solid", "none", "v", "knee", "tight", "none", "with"))


def _gallery(category: str, split: str, count: int = 60) -> list[Family]:
    """Families that claim nothing of one another: one answer for every query in all of them."""
    rng, taken, families = random.Random(3), set(), []
    while len(families) < count:
        found = family(category, split, rng)
        claimed = {*found.garments}.union(
            *(answers(found.reference, q.changes) for q in found.queries)
        )
        if claimed.isdisjoint(taken):
            families.append(found)
            taken |= claimed
    return families


@pytest.fixture(scope="module", params=[*product(ATTRIBUTES, SPLITS)], ids="-".join)
def gallery(request):
    return *request.param, _gallery(*request.param)


def _thumbnail(garment: Garment) -> Image.Image:
    square = ImageOps.pad(draw(garment), (128, 128), color=(246, 244, 239))
    return square.resize((64, 64), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("category", ATTRIBUTES)
def test_every_category_is_rich(category):
    choices = ATTRIBUTES[category]
    assert 7 <= len(choices) <= 9
    assert math.prod(map(len, choices.values())) >= 10_000


def test_bad_garments_are_refused():
    with pytest.raises(ValueError, match="no category 'hat'"):
        Garment("hat", ())
    with pytest.raises(ValueError, match="8 values, not 1"):
        Garment("dress", ("red",))
    with pytest.raises(ValueError, match="length is one of"):
        DRESS.but(length="tunic")
    with pytest.raises(ValueError, match="has no pocket"):
        DRESS.but(pocket="with")
    with pytest.raises(ValueError, match="no split"):
        sample("dress", "dev", random.Random(0))


def test_satisfies_wants_every_change_and_nothing_else():
    asked = [
        Change("length", frozenset({"long"}), relative=True),
        Change("colour", frozenset({"blue", "black"}), relative=True),
    ]
    fits = DRESS.but(length="long", colour="blue")
    assert satisfies(DRESS, asked, fits)
    assert satisfies(DRESS, asked, fits.but(colour="black"))
    assert not satisfies(DRESS, asked, fits.but(colour="green"))
    assert not satisfies(DRESS, asked, fits.but(length="knee"))
    assert not satisfies(DRESS, asked, fits.but(belt="none"))
    assert not satisfies(DRESS, [], sample("shirt", "train", random.Random(0)))


def test_pictures_are_portrait_and_repeatable():
    picture = draw(DRESS)
    assert (picture.mode, picture.size) == ("RGB", (96, 128))
    assert draw(DRESS, size=224).size == (168, 224)
    assert picture.tobytes() == draw(DRESS).tobytes()
    with pytest.raises(ValueError, match="32 pixels"):
        draw(DRESS, size=16)


@pytest.mark.parametrize("category", ATTRIBUTES)
def test_each_attribute_shows_at_64_pixels(category):
    rng = random.Random(0)
    for _ in range(12):
        garment = sample(category, "train", rng)
        before = _thumbnail(garment)
        for attribute, choices in ATTRIBUTES[category].items():
            other = rng.choice([value for value in choices if value != garment[attribute]])
            gap = ImageChops.difference(before, _thumbnail(garment.but(**{attribute: other})))
            red, green, blue = gap.split()
            strongest = ImageChops.lighter(ImageChops.lighter(red, green), blue).histogram()
            mean = sum(level * n for level, n in enumerate(gap.convert("L").histogram())) / 64**2
            assert mean > 0.5, (garment, attribute, other)
            assert sum(strongest[61:]) >= 16, (garment, attribute, other)


def test_darker_is_true_of_the_palette():
    luma = {name: 0.3 * r + 0.59 * g + 0.11 * b for name, (r, g, b) in PALETTE.items()}
    for one, other in product(PALETTE, PALETTE):
        if LEVELS["colour"][one] < LEVELS["colour"][other]:
            assert luma[one] < luma[other]


def test_every_value_has_words_and_five_ways_to_ask():
    for category, attributes in ATTRIBUTES.items():
        base = Garment(category, tuple(choices[0] for choices in attributes.values()))
        for attribute, choices in attributes.items():
            assert set(choices) <= set(PHRASES[attribute])
            for before, after in product(choices, choices):
                if before != after:
                    reference = base.but(**{attribute: before})
                    target = base.but(**{attribute: after})
                    phrases = _requests(reference, target, attribute)
                    assert len({(phrase.verb, phrase.text) for phrase in phrases}) >= 5
                    assert all(after in p.allowed and before not in p.allowed for p in phrases)


def test_relative_words_allow_every_longer_value():
    dress = DRESS.but(length="short")
    phrases = {p.text: p for p in _requests(dress, dress.but(length="knee"), "length")}
    assert phrases["longer"].allowed == {"knee", "long"}
    assert phrases["longer"].relative
    assert phrases["midi"].allowed == {"knee"}
    assert not phrases["midi"].relative


def test_captions_ask_for_the_difference():
    rng, seen = random.Random(0), Counter()
    for _ in range(1500):
        reference = sample(rng.choice([*ATTRIBUTES]), "train", rng)
        chosen = rng.sample(reference.attributes, rng.randint(1, 3))
        choices = ATTRIBUTES[reference.category]
        target = reference.but(
            **{a: rng.choice([v for v in choices[a] if v != reference[a]]) for a in chosen}
        )
        texts, changes = captions(reference, target, rng)
        assert texts[0] != texts[1]
        assert all(0 < len(text.split()) <= 30 and text == text.lower() for text in texts)
        assert sorted(change.attribute for change in changes) == sorted(chosen)
        assert satisfies(reference, changes, target)
        assert not satisfies(reference, changes, reference)
        assert all(c.relative or c.allowed == {target[c.attribute]} for c in changes)
        said = " ".join(texts)
        for change in changes:
            requests = _requests(reference, target, change.attribute)
            assert any(request.text in said for request in requests)
        seen.update(change.relative for change in changes)
    assert min(seen[True], seen[False]) > 0.1 * seen.total()
    with pytest.raises(ValueError, match="nothing to ask"):
        captions(DRESS, DRESS, rng)


def test_descriptions_name_every_attribute():
    rng, partial_lengths = random.Random(0), []
    for _ in range(500):
        garment = sample(rng.choice([*ATTRIBUTES]), "train", rng)
        text = describe(garment, rng)
        assert len(text.split()) <= 45
        assert _named(garment, text) == set(garment.attributes)
        partial = _named(garment, describe(garment, rng, partial=1.0))
        assert len(garment.attributes) / 2 <= len(partial) < len(garment.attributes)
        partial_lengths.append(len(partial))
    assert len(set(partial_lengths)) == 4


def _named(garment: Garment, text: str) -> set[str]:
    found = set()
    for attribute in garment.attributes:
        value = garment[attribute]
        options = "|".join(PHRASES[attribute][value]).replace("{}", value).split("|")
        options += [option.replace("a orange", "an orange") for option in options]
        if any(re.search(rf"\b{option}( [a-z]+)* ({_NOUN})\b", text) for option in options):
            found.add(attribute)  # before the noun
        elif any(re.search(rf"(with|and|,) {option}(,| and|$)", text) for option in options):
            found.add(attribute)  # in the list after it
    return found


_NOUN = "dress|gown|shirt|top|tee"


def test_words_are_those_that_are_produced():
    rng, produced = random.Random(0), set()
    for _ in range(4000):
        category = rng.choice([*ATTRIBUTES])
        one, other = sample(category, "train", rng), sample(category, "val", rng)
        texts = [*captions(one, other, rng)[0], describe(one, rng)]
        produced.update(word for text in texts for word in re.findall("[a-z]+", text))
    assert produced == words()


@pytest.mark.parametrize("category", ATTRIBUTES)
def test_train_holds_every_pair_of_values(category):
    rule = [ATTRIBUTES[category][name] for name in ("colour", "pattern", "sleeves")]
    base = sample(category, "train", random.Random(0))
    splits = {
        values: split_of(base.but(colour=values[0], pattern=values[1], sleeves=values[2]))
        for values in product(*rule)
    }
    held = Counter(splits.values())
    assert held["val"] == held["test"] == len(splits) / 8
    train = [values for values, split in splits.items() if split == "train"]
    for i, j in combinations(range(3), 2):
        pairs = {(values[i], values[j]) for values in train}
        assert pairs == set(product(rule[i], rule[j]))


def test_split_of_a_hand_counted_garment():
    assert split_of(DRESS) == "val"  # 0 + 3 * 0 + 0
    assert split_of(DRESS.but(pattern="striped")) == "train"  # 3
    assert split_of(DRESS.but(pattern="striped", sleeves="short")) == "test"  # 3 + 1


def test_families_keep_their_promises(gallery):
    category, split, families = gallery
    everything = [garment for each in families for garment in each.garments]
    assert len(set(everything)) == len(everything) == 11 * len(families)
    allowed = {split, "train"}
    assert {split_of(garment) for garment in everything} <= allowed
    for each in families:
        assert each.reference in each.garments
        assert {each.reference.category} == {g.category for g in each.garments} == {category}
        assert split_of(each.reference) == split
        assert len({query.target for query in each.queries}) == 3
        for query in each.queries:
            assert split_of(query.target) == split
            # The whole gallery, since the claims of the families are disjoint.
            fitting = [g for g in everything if satisfies(each.reference, query.changes, g)]
            assert fitting == [query.target]
            assert _near_misses(each, query) >= 2


def _near_misses(each: Family, query) -> int:
    asked = {change.attribute: change.allowed for change in query.changes}
    wanted = {a: asked.get(a, {each.reference[a]}) for a in each.reference.attributes}
    faults = [sum(g[a] not in wanted[a] for a in wanted) for g in each.garments]
    return faults.count(1)


def test_queries_need_both_the_picture_and_the_text(gallery):
    _, _, families = gallery
    everything = [garment for each in families for garment in each.garments]
    by_text, by_image, count = 0.0, 0.0, 0
    for each in families:
        distance = {
            g: len(each.reference.differences(g)) for g in everything if g != each.reference
        }
        closest = min(distance.values())
        nearest = [g for g, gap in distance.items() if gap == closest]
        for query in each.queries:
            told = [
                g for g in everything if all(g[c.attribute] in c.allowed for c in query.changes)
            ]
            by_text += 1 / len(told)
            by_image += (query.target in nearest) / len(nearest)
            count += 1
    assert by_text / count < 0.12
    assert by_image / count < 0.12  # with the reference in the ranking it comes first: 0


def test_every_attribute_is_asked_for(gallery):
    category, _, families = gallery
    asked = Counter(c.attribute for each in families for q in each.queries for c in q.changes)
    assert set(asked) == set(ATTRIBUTES[category])
    assert min(asked.values()) > 0.03 * asked.total()


def test_a_family_depends_on_the_generator_alone():
    first, again = (family("shirt", "val", random.Random(7)) for _ in range(2))
    assert first == again
    assert first != family("shirt", "val", random.Random(8))
