"""Words for garments: captions that ask for changes, and captions that describe."""

import random
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gatedcir.synthetic.garment_values import ATTRIBUTES, Change, Garment

# attribute -> value -> (adjectives, nouns), alternatives between bars. "is" goes before an
# adjective and "has" or "with" before a noun; {} is the value itself.
PHRASES: dict[str, dict[str, tuple[str, str]]] = {
    "colour": dict.fromkeys(
        ATTRIBUTES["dress"]["colour"],
        ("{}|{} colored|{} toned", "a {} color|a {} shade|{} fabric"),
    ),
    "pattern": {
        "solid": ("solid|plain", "no pattern|one solid color|plain fabric"),
        "striped": ("striped|stripy", "stripes|a striped pattern|horizontal stripes"),
        "dotted": ("dotted|polka dot", "dots|polka dots|a dotted pattern"),
        "checked": ("checked|plaid", "checks|a plaid pattern|a checkered print"),
        "floral": ("floral|flowery", "flowers|a floral pattern|flowers all over"),
    },
    "sleeves": {
        "none": ("sleeveless", "no sleeves|bare arms|no sleeves at all|uncovered arms"),
        "short": ("short sleeved", "short sleeves|t shirt sleeves|half sleeves|cap sleeves"),
        "long": ("long sleeved", "long sleeves|full sleeves|wrist length sleeves|covered arms"),
    },
    "neckline": {
        "high": ("high necked", "a high neck|a turtleneck|a mock neck|a closed neck"),
        "round": ("round necked", "a round neck|a scoop neck|a rounded neckline|a crew neck"),
        "square": ("square necked", "a square neck|a square neckline|a boxy neckline"),
        "collar": ("collared", "a collar|a white collar|a pointed collar|a folded collar"),
        "v": ("v necked", "a v neck|a v neckline|a v shaped neck|a deep v"),
    },
    "length": {
        "short": ("short|mini", "a short skirt|a mini length|a hem above the knee"),
        "knee": ("knee length|midi", "a knee length skirt|a midi length|a hem at the knee"),
        "long": ("long|maxi", "a long skirt|a maxi length|a hem at the ankle"),
        "cropped": ("cropped|waist length", "a cropped cut|a cropped hem|a hem at the waist"),
        "hip": ("hip length|medium length", "a hip length cut|a medium length|a hem at the hips"),
        "tunic": ("tunic length|thigh length", "a tunic length|a tunic cut|a hem at the thighs"),
    },
    "fit": {
        "tight": ("tight|fitted", "a tight fit|a slim cut|a close fit"),
        "regular": ("regular fit|straight cut", "a regular fit|a straight cut|a standard fit"),
        "loose": ("loose|baggy", "a loose fit|a baggy cut|a wide cut"),
        "flared": ("flared|swinging", "a flared shape|an a line cut|a wide skirt"),
    },
    "buttons": {
        "none": ("buttonless", "no buttons|no button placket|a closed front|no button row"),
        "with": ("button front", "buttons|a row of buttons|black buttons|buttons down the front"),
    },
    "belt": {
        "none": ("beltless", "no belt|nothing at the waist|an open waist|a waist without a belt"),
        "with": ("belted", "a belt|a white belt|a belt with a buckle|a belted waist"),
    },
    "pocket": {
        "none": ("pocketless", "no pocket|no chest pocket|no front pocket|a bare chest"),
        "with": ("pocketed", "a pocket|a chest pocket|a white pocket|a pocket on the chest"),
    },
    "print": {
        "none": ("logo free", "no logo|no graphic|an empty chest|nothing printed on it"),
        "star": ("star printed", "a star|a star logo|a star on the chest|a star graphic"),
        "heart": ("heart printed", "a heart|a heart logo|a heart on the chest|a heart graphic"),
    },
    "ruffles": {
        "none": ("ruffle free", "no ruffles|a straight hem|no frills|a simple hem"),
        "with": ("ruffled", "ruffles|white ruffles|a ruffled hem|frills at the bottom"),
    },
}  # fmt: skip

# "More" and "less" cannot separate values of one level. Without an entry, the order counts.
LEVELS: dict[str, dict[str, int]] = {
    "colour": {"black": 0, "purple": 1, "blue": 1, "red": 2, "green": 2, "orange": 3, "pink": 4,
               "yellow": 4},
    "pattern": {"solid": 0, "striped": 1, "dotted": 1, "checked": 1, "floral": 1},
    "neckline": {"high": 0, "round": 1, "collar": 1, "square": 2, "v": 3},
    "print": {"none": 0, "star": 1, "heart": 1},
}  # fmt: skip

# attribute -> (adjectives, nouns) for a lower level, (adjectives, nouns) for a higher one.
COMPARATIVES: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "colour": (("darker|deeper in color", "a darker color"),
               ("lighter|brighter", "a lighter color")),
    "pattern": (("plainer|less busy", "less pattern"), ("patterned|busier", "some pattern")),
    "sleeves": (("less covered at the arms", "shorter sleeves|less sleeve"),
                ("more covered at the arms", "longer sleeves|more sleeve")),
    "neckline": (("less revealing|higher at the neck", "a higher neckline"),
                 ("more revealing|lower at the neck", "a lower neckline")),
    "length": (("shorter|less long", "a shorter hem"), ("longer|not as short", "a longer hem")),
    "fit": (("tighter|more fitted", "a slimmer fit"), ("looser|more flowing", "a wider shape")),
    "print": (("less graphic", "a plainer chest"),
              ("more graphic", "some logo|a graphic on the chest")),
}  # fmt: skip

NOUNS = {
    "dress": ("dress", "gown"),
    "shirt": ("shirt", "mens shirt", "casual shirt"),
    "toptee": ("top", "tee", "womens top"),
}
_PRENOMINAL = ("colour", "pattern", "length")
_OPENERS = ("", "", "", "it ", "the {} ", "this {} ")
_LINKS = "a an is has and with"


class _Phrase(NamedTuple):
    verb: str  # "is" before an adjective, "has" before a noun
    text: str
    allowed: frozenset[str]
    relative: bool


def captions(
    reference: Garment, target: Garment, rng: random.Random
) -> tuple[tuple[str, str], tuple[Change, ...]]:
    """Two captions, as two people would write them, that ask for `target` given `reference`.

    Together they name every attribute that differs. If both name the same one, they use other
    words. The changes are those that both captions together ask for, one for each attribute.

    Raises:
        ValueError: if the garments are equal or of different categories.

    >>> dress = Garment("dress", ("red", "solid", "none", "v", "knee", "tight", "none", "with"))
    >>> captions(dress, dress.but(length="long", belt="none"), random.Random(1))[0]
    ('it is maxi and has nothing at the waist', 'is beltless')
    """
    differing = reference.differences(target)
    if not differing:
        raise ValueError("the target equals the reference, so there is nothing to ask for")
    speakers = [rng.choice(((0,), (1,), (0, 1))) for _ in differing]
    if len({who for pair in speakers for who in pair}) < 2:
        speakers[rng.randrange(len(speakers))] = (0, 1)
    said: tuple[list[_Phrase], list[_Phrase]] = ([], [])
    changes = []
    for attribute, who in zip(differing, speakers, strict=True):
        phrases = rng.sample(_requests(reference, target, attribute), len(who))
        for speaker, phrase in zip(who, phrases, strict=True):
            said[speaker].append(phrase)
        allowed = frozenset.intersection(*(phrase.allowed for phrase in phrases))
        changes.append(Change(attribute, allowed, all(phrase.relative for phrase in phrases)))
    first, second = (_sentence(part, rng.choice(NOUNS[target.category]), rng) for part in said)
    return (first, second), tuple(changes)


def describe(garment: Garment, rng: random.Random, *, partial: float = 0.0) -> str:
    """A caption of at most 45 words that names the kind of garment and all of its attributes.

    Args:
        garment: the garment to describe.
        rng: decides order and wording.
        partial: probability, 0 to 1, that one to half of the attributes are left out.

    >>> garment = Garment("dress", ("red", "solid", "none", "v", "knee", "tight", "none", "with"))
    >>> print(describe(garment, random.Random(4), partial=1.0))
    a midi dress with a belt, a slim cut, no button placket and one solid color
    """
    named = rng.sample(garment.attributes, len(garment.attributes))
    if rng.random() < partial:
        named = named[rng.randint(1, len(named) // 2) :]
    return _describe(garment, named, rng)


def describe_change(before: Garment, after: Garment, rng: random.Random) -> str:
    """A caption of `after` that names only the differences from `before`.

    Raises:
        ValueError: if the garments are of different categories.

    >>> dress = Garment("dress", ("red", "solid", "none", "v", "knee", "tight", "none", "with"))
    >>> describe_change(dress, dress.but(belt="none", colour="blue"), random.Random(0))
    'a blue toned gown with no belt'
    """
    differing = before.differences(after)
    return _describe(after, rng.sample(differing, len(differing)), rng)


def _describe(garment: Garment, named: Sequence[str], rng: random.Random) -> str:
    adjectives, nouns = [], []
    for attribute in named:
        before, after = (part.split("|") for part in _phrases(attribute, garment[attribute]))
        if attribute in _PRENOMINAL and rng.random() < 0.8:
            adjectives.append(rng.choice(before))
        else:
            nouns.append(rng.choice(after))
    words = " ".join([*adjectives, rng.choice(NOUNS[garment.category])])
    article = "an" if words[0] in "aeiou" else "a"
    return f"{article} {words} with {_list(nouns)}" if nouns else f"{article} {words}"


def words() -> set[str]:
    """Every lower-case word that `captions` and `describe` can produce."""
    texts = [_LINKS, *_OPENERS, *(noun for nouns in NOUNS.values() for noun in nouns)]
    texts += [part for pair in COMPARATIVES.values() for parts in pair for part in parts]
    for attribute, values in PHRASES.items():
        texts += [part for value in values for part in _phrases(attribute, value)]
    return set(re.findall("[a-z]+", " ".join(texts)))


def _phrases(attribute: str, value: str) -> tuple[str, str]:
    adjectives, nouns = PHRASES[attribute][value]
    if value == "orange":
        nouns = nouns.replace("a {}", "an {}")
    return adjectives.replace("{}", value), nouns.replace("{}", value)


def _requests(reference: Garment, target: Garment, attribute: str) -> list[_Phrase]:
    """All the ways to ask for the target's value of one attribute, given the reference's."""
    found = _alternatives(_phrases(attribute, target[attribute]), {target[attribute]}, False)
    choices = ATTRIBUTES[reference.category][attribute]
    levels: Mapping[str, int] = LEVELS.get(attribute) or {v: i for i, v in enumerate(choices)}
    before, after = levels[reference[attribute]], levels[target[attribute]]
    if attribute in COMPARATIVES and before != after:
        higher = after > before
        allowed = {v for v in choices if (levels[v] > before if higher else levels[v] < before)}
        found += _alternatives(COMPARATIVES[attribute][higher], allowed, True)
    return found


def _alternatives(parts: tuple[str, str], allowed: set[str], relative: bool) -> list[_Phrase]:
    return [
        _Phrase(verb, text, frozenset(allowed), relative)
        for verb, texts in zip(("is", "has"), parts, strict=True)
        for text in texts.split("|")
    ]


def _sentence(phrases: Sequence[_Phrase], noun: str, rng: random.Random) -> str:
    """Join phrases: "is longer and has a belt", or, without verbs, "longer with a belt"."""
    shuffled = rng.sample(phrases, len(phrases))
    texts = {
        verb: [phrase.text for phrase in shuffled if phrase.verb == verb] for verb in ("is", "has")
    }
    if rng.random() < 0.3:
        bare = [_list(texts["is"]), _list(texts["has"])]
        return " with ".join(part for part in bare if part)
    order = rng.sample(("is", "has"), 2)
    clauses = [f"{verb} {_list(texts[verb])}" for verb in order if texts[verb]]
    return rng.choice(_OPENERS).format(noun) + " and ".join(clauses)


def _list(texts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))
