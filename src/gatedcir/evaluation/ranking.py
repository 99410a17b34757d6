"""The images that each query of a split retrieves.

Shapes: M queries, K kept, S members of an image group, E embedding width.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gatedcir.benchmarks.load import check_gallery
from gatedcir.benchmarks.ranks import Indices, group_ranks, ranks_in_lists
from gatedcir.data.triplets import Split
from gatedcir.search.index import Floats, Index

KEPT = 50  # the largest cutoff that either dataset reports


@dataclass(frozen=True)
class Ranking:
    """The images that each query of a split retrieves."""

    split: Split
    references: Indices  # [M] gallery indices. -1 if the gallery does not hold it.
    targets: Indices  # [M] gallery indices. -1 if the split publishes none.
    images: Indices  # [M, K] gallery indices, best first, with the reference. -1 is none.
    members: Indices  # [M, S] gallery indices of the image group. -1 is none. S = 0 outside CIRR.
    member_similarity: Floats  # [M, S]
    similarity: Floats  # [M, K]
    target_similarity: Floats  # [M]. -inf without a target.

    def names(self, query: int) -> list[str]:
        """The retrieved images, best first, without the reference if the protocol says so."""
        return [self.split.gallery[self.images[query, place]] for place in self.places(query)]

    def scores(self, query: int) -> list[float]:
        """The similarities of `names`."""
        return self.similarity[query, self.places(query)].tolist()

    def places(self, query: int) -> list[int]:
        """The columns of `images` that count, best first."""
        removed = self.references[query] if self.split.reference_removed else -1
        kept = [n for n, image in enumerate(self.images[query]) if image not in (-1, removed)]
        return kept[:KEPT]

    def group_names(self, query: int) -> list[str]:
        """The image group without the reference, best first, ties by gallery index."""
        reference = self.split.triplets[query].reference
        order = np.lexsort((self.members[query], -self.member_similarity[query]))
        names = [self.split.gallery[i] for i in self.members[query][order] if i >= 0]
        return [name for name in names if name != reference]

    def only(self, queries: Indices) -> "Ranking":
        """The same of some queries, in their order. A query may be among them more than once."""
        triplets = tuple(self.split.triplets[query] for query in queries)
        return Ranking(
            replace(self.split, triplets=triplets),
            self.references[queries],
            self.targets[queries],
            self.images[queries],
            self.members[queries],
            self.member_similarity[queries],
            self.similarity[queries],
            self.target_similarity[queries],
        )

    @property
    def target_ranks(self) -> Indices:
        """0-based rank of every query's target. Past the end of the list if not retrieved."""
        return ranks_in_lists(self.images, self.targets, excluded=self._excluded)

    @property
    def has_group(self) -> npt.NDArray[np.bool_]:
        """Which queries have an image group: [M]."""
        return np.any(self.members >= 0, axis=1).reshape(len(self.members))

    @property
    def group_ranks(self) -> Indices:
        """0-based rank of the target in the image group, of every query that has a group."""
        has = self.has_group
        excluded = None if self._excluded is None else self._excluded[has]
        return group_ranks(
            self.member_similarity[has], self.members[has], self.targets[has], excluded=excluded
        )

    @property
    def _excluded(self) -> Indices | None:
        return self.references if self.split.reference_removed else None


def rank(split: Split, index: Index, queries: Tensor) -> Ranking:
    """Retrieve for the query features [M, E] of a split.

    Raises:
        UserError: the gallery has nothing to choose from.
    """
    check_gallery(split)
    places: dict[str | None, int] = {name: place for place, name in enumerate(split.gallery)}
    triplets = split.triplets
    size = max(len(triplet.group) for triplet in triplets)
    members = np.full((len(triplets), size), -1, dtype=np.int64)  # [M, S]
    for row, triplet in zip(members, triplets, strict=True):
        if triplet.target is None or triplet.target in triplet.group:  # else it was left out
            row[: len(triplet.group)] = [places[name] for name in triplet.group]
    # One more than reported: the reference may be among them.
    similarity, images = index.search(queries, KEPT + 1)
    targets = np.array([places.get(triplet.target, -1) for triplet in triplets])
    return Ranking(
        split=split,
        references=np.array([places.get(triplet.reference, -1) for triplet in triplets]),
        targets=targets,
        images=images,
        members=members,
        member_similarity=index.similarity(queries, members),
        similarity=similarity,
        target_similarity=index.similarity(queries, targets[:, None])[:, 0],
    )
