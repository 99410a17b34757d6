"""The order in which triplets are trained on: at random, or with related ones in the same batch."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from gatedcir.data.triplets import Triplet


class TripletBatches(Sampler[list[int]]):
    """Indices of the triplets of every batch, drawn from the seed and the epoch alone.

    `related` triplets of one pool follow one another as a run. A batch then holds near-identical
    images, and a query must find its own among them. The runs come in random order. With
    `related` 1 the order is random. Several processes divide a common batch, each with its runs in
    one piece. The triplets of a last partial batch are left out.

    Args:
        triplets: the indices count these.
        batch_size: triplets of each process in a batch.
        related: triplets of a pool in a run. A pool's last run may be shorter.
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
        self.start = 0
        """Batches at the beginning that are left out, because a resumed run has done them."""
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
        for number in range(self.start, self.count):
            start = (number * self.processes + self.process) * self.batch_size
            yield order[start : start + self.batch_size]
