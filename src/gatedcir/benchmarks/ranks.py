"""Ranks of the right answer, and recalls, as all data sets use them (NumPy, percentages).

Legend: M queries, G gallery images, S group members, K retrieved images. A rank is 0-based.
Equal similarities are ordered by gallery index, so a rank never depends on a sort.
"""

import numpy as np
import numpy.typing as npt

from gatedcir.errors import UserError

Indices = npt.NDArray[np.integer]
Scores = npt.NDArray[np.floating]
Ranks = npt.NDArray[np.int64]

# Entries of the similarity matrix compared at once. The masks then fit in the CPU's cache.
_BLOCK_ENTRIES = 1 << 19


def target_ranks(similarity: Scores, target: Indices, *, excluded: Indices | None = None) -> Ranks:
    """Rank of each query's target in the whole gallery, [M] int64, without sorting.

    The rank is the number of images that are more similar, plus the number of equally similar
    ones with a smaller gallery index. The excluded image does not count.

    Args:
        similarity: [M, G], higher is closer.
        target: [M] gallery indices.
        excluded: [M] gallery indices of the images taken out of each ranking (CIRR removes the
            reference), or None to keep all of them (FashionIQ).

    Raises:
        ValueError: shapes disagree, an index lies outside the gallery, or a target is excluded.
        UserError: a similarity is NaN. It would otherwise rank its target first.

    >>> similarity = np.array([[0.5, 0.9, 0.5, 0.1]], dtype=np.float32)
    >>> target_ranks(similarity, np.array([2])).tolist()
    [2]
    >>> target_ranks(similarity, np.array([2]), excluded=np.array([1])).tolist()
    [1]
    """
    queries, gallery = _matrix_shape(similarity, "similarity")
    _check_indices(target, queries, gallery, "target")
    if excluded is not None:
        _check_indices(excluded, queries, gallery, "excluded")
        _check_target_is_kept(target, excluded)
    ranks = np.empty(queries, dtype=np.int64)  # [M]
    columns = np.arange(gallery)  # [G]
    step = max(1, _BLOCK_ENTRIES // max(1, gallery))
    for start in range(0, queries, step):
        rows = slice(start, start + step)
        block = similarity[rows]  # [m, G]
        _refuse_nan(block)
        wanted = target[rows, None]  # [m, 1]
        own = np.take_along_axis(block, wanted, axis=1)  # [m, 1]
        ahead = block == own  # [m, G]
        ahead &= columns < wanted
        ahead |= block > own
        if excluded is not None:
            np.put_along_axis(ahead, excluded[rows, None], False, axis=1)
        ranks[rows] = np.count_nonzero(ahead, axis=1)
    return ranks


def group_ranks(
    similarity: Scores, members: Indices, target: Indices, *, excluded: Indices | None = None
) -> Ranks:
    """Rank of each target among its image group (CIRR's subset metric), [M] int64.

    The order is that of `target_ranks`: similarity first, then gallery index, so the position
    of a member within `members` does not matter.

    Args:
        similarity: [M, S], the similarity of each member to the query.
        members: [M, S] gallery indices, -1 where a group is smaller (its similarity is ignored).
        target: [M] gallery indices, each exactly once in its row of `members`.
        excluded: [M] gallery indices taken out of the group if they are in it (the reference),
            or None where the members are already the remaining ones.

    Raises:
        ValueError: shapes disagree, or a target is excluded or not exactly once in its group.
        UserError: the similarity of a member is NaN.

    >>> members = np.array([[7, 3, 9, -1]])
    >>> similarity = np.array([[0.2, 0.2, 0.8, 5.0]], dtype=np.float32)
    >>> group_ranks(similarity, members, np.array([7])).tolist()
    [2]
    >>> group_ranks(similarity, members, np.array([7]), excluded=np.array([9])).tolist()
    [1]
    """
    queries, _ = _matrix_shape(similarity, "similarity")
    if members.shape != similarity.shape:
        raise ValueError(f"members {members.shape} and similarity {similarity.shape} differ")
    _check_indices(target, queries, None, "target")
    wanted = target[:, None]  # [M, 1]
    is_target = members == wanted  # [M, S]
    if not (np.count_nonzero(is_target, axis=1) == 1).all():
        raise ValueError("every target must be exactly once among the members of its group")
    present = members >= 0  # [M, S]
    if excluded is not None:
        _check_indices(excluded, queries, None, "excluded")
        _check_target_is_kept(target, excluded)
        present &= members != excluded[:, None]
    _refuse_nan(similarity[present])
    own = similarity[is_target][:, None]  # [M, 1]
    ahead = (similarity > own) | ((similarity == own) & (members < wanted))  # [M, S]
    return np.count_nonzero(ahead & present, axis=1).astype(np.int64)


def ranks_in_lists(
    retrieved: Indices, target: Indices, *, excluded: Indices | None = None
) -> Ranks:
    """Rank of each target in a list of retrieved images, [M] int64. K where it is absent.

    With `excluded`, ask the index for one image more than the largest cutoff. A list of 51 still
    holds 50 after the reference is removed.

    Args:
        retrieved: [M, K] gallery indices, best first, -1 for none.
        target: [M] gallery indices.
        excluded: [M] gallery indices taken out of each list, or None.

    Raises:
        ValueError: shapes disagree, an index is negative, or a target is excluded.

    >>> retrieved = np.array([[4, 0, 2], [1, 3, -1]])
    >>> ranks_in_lists(retrieved, np.array([2, 0]), excluded=np.array([4, 3])).tolist()
    [1, 3]
    """
    queries, length = _matrix_shape(retrieved, "retrieved")
    _check_indices(target, queries, None, "target")
    hit = retrieved == target[:, None]  # [M, K]
    # A last column that always hits makes the first hit of an absent target K.
    hit = np.concatenate([hit, np.ones((queries, 1), dtype=bool)], axis=1)  # [M, K + 1]
    ranks = hit.argmax(axis=1).astype(np.int64)  # [M]
    if excluded is not None:
        _check_indices(excluded, queries, None, "excluded")
        _check_target_is_kept(target, excluded)
        before = np.arange(length) < ranks[:, None]  # [M, K]
        removed = ((retrieved == excluded[:, None]) & before).any(axis=1)  # [M]
        ranks -= removed & (ranks < length)
    return ranks


def recall_at(ranks: Indices, k: int) -> float:
    """Percentage of queries whose target is among the first `k`, in 0..100.

    The share is rounded to float32 before it becomes a percentage, as published CIRR and
    FashionIQ tables were computed, so that equal counts give equal digits.

    Raises:
        ValueError: there is no query, or `k` is below 1.

    >>> recall_at(np.array([0, 4, 5, 90]), 5)
    50.0
    """
    if ranks.size == 0:
        raise ValueError("recall of no queries is not defined")
    if k < 1:
        raise ValueError(f"k is {k}, but a cutoff is at least 1")
    return float(np.float32(np.count_nonzero(ranks < k) / ranks.size)) * 100


def _matrix_shape(matrix: npt.NDArray, name: str) -> tuple[int, int]:
    if matrix.ndim != 2:
        raise ValueError(f"{name} must have two axes, not {matrix.ndim}")
    return matrix.shape[0], matrix.shape[1]


def _check_indices(indices: Indices, queries: int, gallery: int | None, name: str) -> None:
    # NumPy would take a negative index from the end and rank the wrong image in silence.
    if indices.shape != (queries,):
        raise ValueError(f"{name} has the shape {indices.shape}, but there are {queries} queries")
    if (indices < 0).any() or (gallery is not None and (indices >= gallery).any()):
        raise ValueError(f"{name} holds an index outside the gallery")


def _check_target_is_kept(target: Indices, excluded: Indices) -> None:
    if (same := target == excluded).any():
        raise ValueError(f"the target of query {int(same.argmax())} is also its excluded image")


def _refuse_nan(similarity: Scores) -> None:
    if np.isnan(similarity).any():
        raise UserError(
            "The similarities hold NaN, so nothing can be ranked: "
            "use a checkpoint from before the training diverged, or compute in float32."
        )
