"""Four rankings of CIRR and FashionIQ size whose published-protocol recalls are known exactly.

The fixture holds seeds, indices and results; the similarities are drawn again here, and their
checksum proves that they are the same.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from gatedcir.benchmarks.cirr import cirr_metrics
from gatedcir.benchmarks.fashioniq import fashioniq_metrics
from gatedcir.benchmarks.ranks import (
    group_ranks,
    ranks_in_lists,
    target_ranks,
)
from gatedcir.search.exact import TokenIndex

FIXTURE = Path(__file__).parents[1] / "fixtures" / "sprc_metrics_cirr.json"
RUNS = json.loads(FIXTURE.read_text())["runs"]


def draw(run):
    """Replay the draws of one run: (similarity [M, G], reference, target, members or None)."""
    rng = np.random.default_rng(run["seed"])
    is_cirr = run["kind"] == "cirr"
    queries, gallery, drawn = (4181, 2297, 6) if is_cirr else (2017, 3817, 2)
    names = set()  # only their number matters here: repeated names are drawn again
    while len(names) < gallery:
        if is_cirr:
            names.add(tuple(int(rng.integers(0, high)) for high in (1200, 4, 2)))
        else:
            names.add(tuple(rng.integers(0, 36, 7).tolist()))
    rng.permutation(gallery)
    images = np.stack([rng.choice(gallery, drawn, replace=False) for _ in range(queries)])
    places = np.tile([0, 1], (queries, 1))
    if is_cirr:
        places = np.stack([rng.permutation(6)[:2] for _ in range(queries)])
    reference, target = np.take_along_axis(images, places, axis=1).T
    similarity = rng.standard_normal((queries, gallery), dtype=np.float32)
    similarity *= np.float32(0.1)
    similarity += np.float32(0.3)
    rows = np.arange(queries)
    if is_cirr:
        similarity[rows[:, None], images] += np.float32(0.1)
    similarity[rows, target] += np.float32(0.15 if is_cirr else 0.22)
    similarity[rows, reference] += np.float32(0.2 if is_cirr else 0.25)
    if run["quant"]:
        grid = np.float32(run["quant"])
        similarity = np.round(similarity * grid) / grid
    return similarity, reference, target, images if is_cirr else None


def lists_from_index(similarity, length):
    """Gallery indices [M, length] from the index; query i is the one-hot vector i.

    With column g as image g every product is exact. Queries go in groups, each with an index of
    its own, as the work grows with the square of their number.
    """
    lists = []
    for rows in np.array_split(similarity, 30):
        index = TokenIndex(dim=len(rows), tokens_per_image=1)
        index.add(rows.T[:, None])  # [G, 1, m]
        scores, images = index.search(np.eye(len(rows), dtype=np.float32), length)
        assert np.array_equal(scores, np.take_along_axis(rows, images, axis=1))
        lists.append(images)
    return np.concatenate(lists)


@pytest.mark.parametrize("name", ["cirr", "cirr_ties", "fiq", "fiq_ties"])
def test_ranks_and_recalls_are_exactly_the_published_protocols(name):
    run = RUNS[name]
    similarity, reference, target, members = draw(run)
    assert hashlib.sha256(similarity.tobytes()).hexdigest() == run["sim_sha256"]
    with np.load(FIXTURE.with_suffix(".npz")) as arrays:
        prefix = f"{name}."
        expected = {key.removeprefix(prefix): arrays[key] for key in arrays if prefix in key}
    assert np.array_equal(reference, expected["ref"])
    assert np.array_equal(target, expected["tgt"])
    excluded = None if members is None else reference

    ranks = target_ranks(similarity, target, excluded=excluded)
    assert np.array_equal(ranks, expected["target_rank"])
    listed = ranks_in_lists(lists_from_index(similarity, 51), target, excluded=excluded)
    assert np.array_equal(listed[ranks < 50], ranks[ranks < 50])
    for found in (ranks, listed):
        if members is None:
            metrics = fashioniq_metrics({"dress": found})
            assert [metrics[f"dress_recall_at{k}"] for k in (10, 50)] == run["result"]
        else:
            own = np.take_along_axis(similarity, members, axis=1)  # [M, 6]
            in_group = group_ranks(own, members, target, excluded=reference)
            assert np.array_equal(in_group, expected["target_subset_rank"])
            assert list(cirr_metrics(found, in_group).values())[:7] == run["result"]
