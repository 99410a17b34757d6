"""Training triplets with wrong targets, made on purpose, to see what a recipe is worth on them."""

import random
from collections.abc import Sequence
from dataclasses import replace

from gatedcir.data.triplets import Triplet


def shuffled_count(total: int, share: float) -> int:
    """How many of the triplets get wrong targets: 0, or at least 2, which exchange theirs."""
    count = round(share * total)
    return count if count > 1 else 0


def shuffled(triplets: Sequence[Triplet], share: float, *, seed: int) -> list[Triplet]:
    """A share of the triplets with their targets exchanged.

    Each of them gets the targets of the next one in a random circle. References and texts stay.

    >>> rows = [Triplet(str(i), "r", (f"t{i}",), ("text",)) for i in range(4)]
    >>> sum(a.targets != b.targets for a, b in zip(shuffled(rows, 0.5, seed=0), rows))
    2
    """
    rng, count = random.Random(f"noise/{seed}"), shuffled_count(len(triplets), share)
    chosen = rng.sample(range(len(triplets)), count)
    found = list(triplets)
    for place, index in enumerate(chosen):
        giver = triplets[chosen[place - 1]]
        found[index] = replace(found[index], targets=giver.targets)
    return found
