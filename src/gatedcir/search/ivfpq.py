"""The first stage of a large index: inverted lists of product-quantised features (FAISS).

It names images that may be among the best of a query. An exact search over them follows.
Shapes: B images, Q query tokens, E embedding width, P parts of a query, T tokens fetched a part,
C candidates.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import faiss
import numpy as np
import numpy.typing as npt
import torch

from gatedcir.benchmarks.ranks import Indices
from gatedcir.errors import UserError, reason_of
from gatedcir.files import (
    check_sums,
    check_was_read,
    parse_json,
    sums_of,
    whole_folder,
    write_json,
)
from gatedcir.search.index import Floats

_FAISS: Any = faiss  # its types leave some names out
Marks = npt.NDArray[np.bytes_]
_SETTINGS, _INDEX, _IMAGES, _SUMS = "large.json", "lists.faiss", "images.npz", "sums.json"
_CENTROIDS = 16  # of each part of a feature: 4 bits, which fast scan wants
_POINTS = 40  # tokens of the sample for each list
_ITERATIONS = 8  # of k-means
_PER_CANDIDATE = 4  # tokens fetched for each candidate
_POOLINGS = 4  # iterations of an image's own k-means


@dataclass(frozen=True)
class Lists:
    """How features are listed: the `Settings` of the kind large."""

    kind: ClassVar[str] = "large"
    meant: ClassVar[str] = "how it lists features"
    nlist: int | None = None
    """Inverted lists. None: the power of two next to the square root of the number of features."""
    nprobe: int | None = None
    """Lists that a search looks into. None: a quarter of them."""
    pq_bytes: int = 64
    """Bytes of a feature's code."""
    pool_factor: int = 1
    """Features of an image that become one, by k-means, in the lists only."""

    def count(self, tokens: int) -> int:
        """How many lists there are for so many tokens.

        >>> Lists().count(200_000 * 32)
        2048
        """
        return self.nlist or int(2 ** round(np.log2(tokens) / 2))

    def sample(self, tokens: int) -> int:
        """How many of so many tokens the training reads."""
        return min(tokens, _POINTS * max(_CENTROIDS, self.count(tokens)))

    def write(self, folder: Path) -> None:
        """Note it in an index's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _SETTINGS, self.noted())

    def noted(self) -> dict[str, Any]:
        """As `Settings`."""
        return asdict(self)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The settings of an index. UserError if its file is damaged."""
        file = folder / _SETTINGS
        if not file.is_file():
            return cls()
        try:
            return cls(**parse_json(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            check_was_read(file, error)
            raise UserError(
                f"{file} is damaged ({reason_of(error)}); delete it for the defaults."
            ) from None


class FirstStage:
    """The features of some images as codes in lists.

    Args:
        lists: the settings.
        index: FAISS' index. The id of a token is the number of its image.
        numbers: of the listed images, ascending: [N].
        marks: the beginnings of their digests: [N].
    """

    def __init__(self, lists: Lists, index: Any, numbers: Indices, marks: Marks) -> None:
        self.lists, self.index, self.numbers, self.marks = lists, index, numbers, marks

    @classmethod
    def trained(cls, lists: Lists, tokens: int, sample: torch.Tensor) -> Self:
        """Empty lists for so many tokens, trained on a sample [B, Q, E]."""
        dim = sample.shape[2]
        points = _pooled(sample, lists.pool_factor).flatten(0, 1).numpy()
        parts = max(n for n in range(1, 2 * lists.pq_bytes + 1) if dim % n == 0)
        nlist = min(lists.count(tokens), len(points))
        index: Any = faiss.IndexIVFPQFastScan(
            faiss.IndexFlatIP(dim), dim, nlist, parts, 4, faiss.METRIC_INNER_PRODUCT
        )
        index.cp.niter, index.cp.min_points_per_centroid = _ITERATIONS, 1
        index.pq.cp.min_points_per_centroid = 1
        if faiss.get_num_gpus():  # with faiss-gpu, lists are found on GPUs
            index.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(dim))
        index.train(points)
        return cls(lists, index, np.empty(0, np.int64), as_marks([]))

    def listed(self, numbers: Indices, marks: Marks) -> npt.NDArray[np.bool_]:
        """Which of some images are listed with the same content: [n]."""
        if not len(self.numbers):
            return np.zeros(len(numbers), dtype=bool)
        place = np.searchsorted(self.numbers, numbers).clip(max=len(self.numbers) - 1)
        return (self.numbers[place] == numbers) & (self.marks[place] == marks)

    def add(self, numbers: Indices, marks: Marks, features: torch.Tensor) -> None:
        """List images that are not listed, with their features [B, Q, E]."""
        pooled = _pooled(features, self.lists.pool_factor)
        self.index.add_with_ids(pooled.flatten(0, 1).numpy(), numbers.repeat(pooled.shape[1]))
        numbers = np.concatenate([self.numbers, numbers])
        order = numbers.argsort()
        self.marks = np.concatenate([self.marks, marks])[order]
        self.numbers = numbers[order]

    def remove(self, numbers: Indices) -> None:
        """Take images out of the lists."""
        gone = np.isin(self.numbers, numbers)
        if gone.any():
            self.index.remove_ids(_FAISS.IDSelectorBatch(self.numbers[gone]))
            self.numbers, self.marks = self.numbers[~gone], self.marks[~gone]

    def candidates(self, query: Floats, count: int, among: Indices | None) -> Indices:
        """The C images that look best for a query [P, E], `count` at most, of `among` if given.

        An image is ranked by the mean over the parts of its best token found. Where a part has
        found none of its tokens, the worst token that this part has found stands in.
        """
        nlist = self.index.nlist
        settings = _FAISS.SearchParametersIVF(
            nprobe=min(nlist, self.lists.nprobe or max(1, nlist // 4)), sel=_selector(among)
        )
        fetch = min(self.index.ntotal, _PER_CANDIDATE * count)
        scores, ids = self.index.search(query, fetch, params=settings)  # [P, T]
        part, place = np.nonzero(ids >= 0)
        images, which = np.unique(ids[part, place], return_inverse=True)
        worst = np.where(ids >= 0, scores, np.inf).min(1)  # [P]
        best = np.repeat(worst[:, None], len(images), axis=1)  # [P, n]
        np.maximum.at(best, (part, which), scores[part, place])
        return images[np.argsort(-best.mean(0), kind="stable")[:count]]

    def save(self, folder: Path) -> None:
        """Write it into a new folder, whole or not at all."""
        with whole_folder(folder, size=self.memory) as unfinished:
            faiss.write_index(self.index, str(unfinished / _INDEX))
            np.savez(unfinished / _IMAGES, numbers=self.numbers, marks=self.marks)
            write_json(unfinished / _SUMS, sums_of(unfinished, _INDEX, _IMAGES))

    @classmethod
    def load(cls, folder: Path, lists: Lists) -> Self:
        """UserError if the folder is damaged."""
        try:
            if (folder / _SUMS).exists():  # lists of earlier versions have none
                noted = parse_json((folder / _SUMS).read_bytes())
                sums = {name: noted[name] for name in (_INDEX, _IMAGES)}
                check_sums(folder, sums, *sums)
            index = faiss.read_index(str(folder / _INDEX))
            with np.load(folder / _IMAGES) as images:
                return cls(lists, index, images["numbers"], images["marks"])
        except Exception as error:  # FAISS has no class of its own for them
            check_was_read(folder, error)
            raise UserError(
                f"{folder} is damaged ({reason_of(error)}); delete it, and run gatedcir index "
                "again."
            ) from None

    @property
    def memory(self) -> int:
        """Bytes of codes, ids and images in memory."""
        of_images = self.numbers.nbytes + self.marks.nbytes
        return self.index.ntotal * (self.index.code_size + 8) + of_images


def as_marks(digests: Sequence[str]) -> Marks:
    """Enough of digests to tell whether an image is still the same."""
    return np.array(digests, dtype="S8")


def _selector(among: Indices | None) -> Any:
    """FAISS' form of chosen numbers: a bit for each number."""
    if among is None:
        return None
    bits = np.zeros(among.max() + 1, dtype=bool)
    bits[among] = True
    return _FAISS.IDSelectorBitmap(np.packbits(bits, bitorder="little"))


def _pooled(features: torch.Tensor, factor: int) -> torch.Tensor:
    """The tokens of each image [B, Q, E] as centres of groups, `factor` times fewer, by k-means.

    >>> _pooled(torch.tensor([[[1.0, 0], [0, 1], [1, 0], [0, 3]]]), 2)
    tensor([[[1., 0.],
             [0., 2.]]])
    """
    features = features.float()
    if factor == 1:
        return features
    centres = features[:, : -(-features.shape[1] // factor)]  # [B, q, E]
    for _ in range(_POOLINGS):
        nearest = torch.cdist(features, centres).argmin(2)  # [B, Q]
        member = torch.nn.functional.one_hot(nearest, centres.shape[1]).float()  # [B, Q, q]
        sums = member.mT @ features  # [B, q, E]
        sizes = member.sum(1)[..., None]  # [B, q, 1]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
    return centres
