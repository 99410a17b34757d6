"""The order in which triplets are trained on: at random, or with related ones in the same batch."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from gatedcir.data.triplets import Triplet


class TripletBatches(Sampler[list[int]]):
    """Indices of the triplets of every batch, drawn anew from the seed and the epoch alone.

    Triplets of one pool stand `related` at a time behind one another, so that a batch holds the
    near-identical images among which a query must find its own; the runs come in random order.
    With 1 the order is plainly random. Several processes divide the batch that they make together,
    each with its runs in one piece; the triplets of a last partial one are left out.

    Args:
        triplets: what the indices count.
        batch_size: triplets of each process in a batch.
        related: triplets of a pool in a run; a pool's last run may be shorter.
        seed: of all epochs.
        process: the number of this process.
        processes: how many there are.
    """

    def __init__(
        self,
        triplets: Sequence[Triplet],
        *,
        batch_size: int,
        related: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.batch_size, self.related, self.seed = batch_size, related, seed
        self.process, self.processes = process, processes
        self.count = len(triplets) // (batch_size * processes)
        self.epoch = 0
        pools: dict[str, list[int]] = defaultdict(list)
        for index, triplet in enumerate(triplets):
            pools[triplet.pool if related > 1 else str(index)].append(index)
        self.pools = list(pools.values())

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        rng = random.Random(f"{self.seed}/{self.epoch}")
        runs = []
        for pool in self.pools:
            drawn = rng.sample(pool, len(pool))
            runs += [drawn[i : i + self.related] for i in range(0, len(drawn), self.related)]
        rng.shuffle(runs)
        order = [index for run in runs for index in run]
        for number in range(self.count):
            start = (number * self.processes + self.process) * self.batch_size
            yield order[start : start + self.batch_size]
