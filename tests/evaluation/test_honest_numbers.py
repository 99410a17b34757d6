"""Figures that cannot lie: an evaluation that knows no answers, and data that give none away."""

from collections import defaultdict
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from toy_rankings import random_split, ranked

from gatedcir.assemble.data import load_data
from gatedcir.assemble.evaluator import open_evaluator
from gatedcir.benchmarks.cirr import CIRR
from gatedcir.evaluation.evaluator import rank_each
from gatedcir.options.config import DataConfig

QUERIES, GALLERY = 600, 101


def test_labels_at_random_give_the_recall_of_chance():
    """The mean recall lies within four standard deviations of k images among 100."""
    rng = np.random.default_rng(0)
    split = random_split(rng, gallery=GALLERY, queries=QUERIES)
    gallery = rng.standard_normal((GALLERY, 3, 5)).astype(np.float32)
    found = CIRR.measure([ranked(split, gallery, rng.standard_normal((QUERIES, 5), np.float32))])
    for k in (1, 5, 10, 50):
        chance = k / (GALLERY - 1)  # the reference is removed
        off = 4 * np.sqrt(chance * (1 - chance) / QUERIES)
        assert abs(found[f"recall_at{k}"] / 100 - chance) < off, k


def test_what_is_found_does_not_depend_on_the_answers(home, cirr_run):
    data = DataConfig("CIRR", home / "cirr_dataset", num_workers=0)
    evaluator, [split] = open_evaluator(cirr_run, data, "val", device="cpu")
    targets = [triplet.targets for triplet in split.triplets]
    turned = zip(split.triplets, targets[1:] + targets[:1], strict=True)
    other = replace(split, triplets=tuple(replace(each, targets=new) for each, new in turned))
    [[first], [second]] = (
        rank_each(evaluator, [one], [evaluator.encode_query])[0] for one in (split, other)
    )
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.similarity, second.similarity)
    assert not np.array_equal(first.targets, second.targets)


@pytest.mark.parametrize("name", ["CIRR", "FashionIQ"])
def test_synthetic_splits_share_no_picture(home, name):
    folder = home / {"CIRR": "cirr_dataset", "FashionIQ": "fashionIQ_dataset"}[name]
    seen = defaultdict(set)
    parts = ("train", "val", {"CIRR": "test1", "FashionIQ": "test"}[name])
    for part in parts:
        for split in load_data(DataConfig(name, folder), part)[0]:
            for path in split.paths.values():
                seen[sha256(path.read_bytes()).digest()].add(part)
    assert set.union(*seen.values()) == set(parts) and len(seen) > 100
    assert not [found for found in seen.values() if len(found) > 1]
