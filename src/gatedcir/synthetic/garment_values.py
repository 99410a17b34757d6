"""The definition of a garment: a category and one value for each of its attributes."""

from collections.abc import Sequence
from dataclasses import dataclass

SPLITS = ("train", "val", "test")
RULE = ("colour", "pattern", "sleeves")  # the attributes whose combination decides the split

_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
_PATTERNS = ("solid", "striped", "dotted", "checked", "floral")
_SLEEVES = ("none", "short", "long")

# Values of sleeves, length and fit go from less to more.
ATTRIBUTES: dict[str, dict[str, tuple[str, ...]]] = {
    "dress": {
        "colour": _COLOURS,
        "pattern": _PATTERNS,
        "sleeves": _SLEEVES,
        "neckline": ("high", "round", "square", "v"),
        "length": ("short", "knee", "long"),
        "fit": ("tight", "loose", "flared"),
        "buttons": ("none", "with"),
        "belt": ("none", "with"),
    },
    "shirt": {
        "colour": _COLOURS,
        "pattern": _PATTERNS,
        "sleeves": _SLEEVES,
        "neckline": ("high", "round", "collar", "v"),
        "length": ("cropped", "hip", "tunic"),
        "fit": ("tight", "regular", "loose"),
        "buttons": ("none", "with"),
        "pocket": ("none", "with"),
    },
    "toptee": {
        "colour": _COLOURS,
        "pattern": _PATTERNS,
        "sleeves": _SLEEVES,
        "neckline": ("high", "round", "square", "v"),
        "length": ("cropped", "hip", "tunic"),
        "fit": ("tight", "regular", "loose"),
        "print": ("none", "star", "heart"),
        "ruffles": ("none", "with"),
    },
}

_POSITIONS = {
    category: {attribute: position for position, attribute in enumerate(choices)}
    for category, choices in ATTRIBUTES.items()
}


@dataclass(frozen=True)
class Garment:
    """One value for every attribute of `category`, in the order of `ATTRIBUTES[category]`.

    Raises:
        ValueError: on an unknown category, or a value its attribute does not have.

    >>> dress = Garment("dress", ("red", "solid", "none", "v", "knee", "tight", "none", "with"))
    >>> dress["length"], dress.but(length="long")["length"], dress.but(length="long")["colour"]
    ('knee', 'long', 'red')
    """

    category: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.category not in ATTRIBUTES:
            raise ValueError(f"no category {self.category!r}: one of {', '.join(ATTRIBUTES)}")
        known = ATTRIBUTES[self.category]
        if len(self.values) != len(known):
            raise ValueError(f"a {self.category} has {len(known)} values, not {len(self.values)}")
        for value, (attribute, choices) in zip(self.values, known.items(), strict=True):
            if value not in choices:
                raise ValueError(f"{attribute} is one of {', '.join(choices)}, not {value!r}")

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the attributes, in the order of `values`."""
        return tuple(ATTRIBUTES[self.category])

    def __getitem__(self, attribute: str) -> str:
        return self.values[_POSITIONS[self.category][attribute]]

    def but(self, **changed: str) -> "Garment":
        """The same garment with other values for the attributes named.

        Raises:
            ValueError: on an attribute or a value that the category does not have.
        """
        if unknown := sorted(set(changed) - set(self.attributes)):
            raise ValueError(f"a {self.category} has no {unknown[0]}")
        values = zip(self.attributes, self.values, strict=True)
        return Garment(self.category, tuple(changed.get(name, value) for name, value in values))

    def differences(self, other: "Garment") -> tuple[str, ...]:
        """The attributes in which `other`, a garment of the same category, differs.

        Raises:
            ValueError: if the categories differ.
        """
        if other.category != self.category:
            raise ValueError(f"a {self.category} cannot be compared with a {other.category}")
        pairs = zip(self.attributes, self.values, other.values, strict=True)
        return tuple(attribute for attribute, mine, theirs in pairs if mine != theirs)


@dataclass(frozen=True)
class Change:
    """The request of a text for one attribute: a value in `allowed`.

    `relative` is true if all its words are comparative ("longer" allows every longer value). It is
    false if some words name the value itself ("red" allows exactly red).
    """

    attribute: str
    allowed: frozenset[str]
    relative: bool


def satisfies(reference: Garment, changes: Sequence[Change], candidate: Garment) -> bool:
    """Whether `candidate` is `reference` with exactly the requested changes.

    >>> dress = Garment("dress", ("red", "solid", "none", "v", "knee", "tight", "none", "with"))
    >>> longer = [Change("length", frozenset({"long"}), relative=True)]
    >>> satisfies(dress, longer, dress.but(length="long"))
    True
    >>> satisfies(dress, longer, dress.but(length="long", colour="blue"))
    False
    """
    if candidate.category != reference.category:
        return False
    allowed = {change.attribute: change.allowed for change in changes}
    pairs = zip(reference.attributes, reference.values, candidate.values, strict=True)
    return all(
        theirs in allowed[name] if name in allowed else theirs == mine
        for name, mine, theirs in pairs
    )


def split_of(garment: Garment) -> str:
    """The split that a garment's colour, pattern and sleeves belong to: train, val or test.

    With i the index of a value, (i_colour + 3 i_pattern + i_sleeves) mod 8 is 0 for val and 4 for
    test. This is a Latin square: about an eighth of the combinations is held out for each, while
    every pair of values still occurs in train.
    """
    colour, pattern, sleeves = (
        ATTRIBUTES[garment.category][attribute].index(garment[attribute]) for attribute in RULE
    )
    return {0: "val", 4: "test"}.get((colour + 3 * pattern + sleeves) % 8, "train")
