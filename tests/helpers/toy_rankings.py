"""Small splits, features and rankings, by hand or drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gatedcir.data.triplets import Split, Triplet
from gatedcir.evaluation.ranking import rank
from gatedcir.search.exact import TokenIndex


def split_of(triplets, gallery, *, removed, name="CIRR val"):
    paths = {image: Path(image) for image in gallery}
    return Split(name, tuple(triplets), tuple(gallery), paths, "by hand", removed)


def random_split(rng, gallery=70, queries=40, *, cirr=True, category="dress", targets=True):
    """Queries with different reference and target, the image groups in no order."""
    names = [f"{category}-{number}" for number in range(gallery)]
    triplets = []
    for number in range(queries):
        drawn = rng.choice(names, 6, replace=False).tolist()
        reference, target = drawn[:2]
        group = tuple(rng.permutation(drawn).tolist()) if cirr else ()
        target = target if targets else None
        triplets.append(Triplet(str(number), reference, (target,), (f"query {number}",), group))
    kind = "val" if targets else "test1"
    name = f"CIRR {kind}" if cirr else f"FashionIQ {category} val"
    split = split_of(triplets, names, removed=cirr, name=name)
    return split if cirr else replace(split, category=category)


def features_of(rng, split, tokens=3, width=5):
    """Small integers: products are exact, and ties are many."""
    gallery = rng.integers(-2, 3, (len(split.gallery), tokens, width)).astype(np.float32)
    queries = rng.integers(-2, 3, (len(split.triplets), width)).astype(np.float32)
    return gallery, queries


def ranked(split, gallery, queries):
    index = TokenIndex(dim=gallery.shape[2], tokens_per_image=gallery.shape[1])
    index.add(gallery)
    return rank(split, index, torch.from_numpy(queries))
