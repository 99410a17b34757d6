"""The order of training triplets: related ones together, everything once."""

from itertools import groupby

import pytest

from gatedcir.data.order import TripletBatches
from gatedcir.data.triplets import Triplet

POOLS = "aaaaaaabbbbbccccccccd"  # 7, 5, 8 and 1 triplets
TRIPLETS = [Triplet(str(i), "r", ("t",), ("is red",), pool=pool) for i, pool in enumerate(POOLS)]


def order(epoch=0, **settings):
    found = TripletBatches(TRIPLETS, **{"batch_size": 1, "related": 4, "seed": 0, **settings})
    found.epoch = epoch
    batches = list(found)
    assert len(batches) == len(found)
    assert {len(batch) for batch in batches} == {found.batch_size}
    return [index for batch in batches for index in batch]


@pytest.mark.parametrize("related", [1, 2, 4, 100])
def test_every_triplet_comes_once(related):
    assert sorted(order(related=related)) == list(range(len(TRIPLETS)))


def test_a_pool_is_cut_into_runs_and_no_more():
    pools = [POOLS[index] for index in order(related=4)]
    lengths = [len(list(run)) for _, run in groupby(pools)]
    # 4 + 3, 4 + 1, 4 + 4 and 1, of which runs of one pool may happen to meet.
    assert len(lengths) <= 7
    assert sum(length % 4 == 0 for length in lengths) >= 1
    assert max(map(pools.count, set(pools))) == 8


def test_whole_pools_stay_together():
    pools = [POOLS[index] for index in order(related=100)]
    assert sorted(pool for pool, _ in groupby(pools)) == ["a", "b", "c", "d"]


def test_without_related_ones_the_order_ignores_pools():
    pools = [POOLS[index] for index in order(related=1)]
    assert len(list(groupby(pools))) > 10


def test_the_order_depends_on_seed_and_epoch_alone():
    assert order(epoch=3) == order(epoch=3)
    assert order(epoch=3) != order(epoch=4)
    assert order(seed=1) != order(seed=2)


@pytest.mark.parametrize(("processes", "kept"), [(1, 20), (2, 16), (3, 12)])
def test_processes_together_have_the_batches_of_one(processes, kept):
    size = 4
    parts = [order(process=rank, processes=processes, batch_size=size) for rank in range(processes)]
    together = [
        index
        for start in range(0, len(parts[0]), size)
        for part in parts
        for index in part[start : start + size]
    ]
    assert together == order()[:kept]  # of 21
